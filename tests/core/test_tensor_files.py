"""Our own safetensors files beside the ones that safetensors itself writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from consilia.core.errors import ConfigError
from consilia.core.tensor_files import DTYPES, overwrite_tensors, write_tensors

TENSORS = {
    **{f"of {name}": torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()},
    "strided": torch.arange(12.0).reshape(3, 4).t(),
    "single": torch.tensor(1.5, dtype=torch.float16),
    "empty": torch.zeros(0, 3),
    'named "é"\n': torch.ones(5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("metadata", [None, {"consilia": '{"name": "é"}'}])
def test_the_bytes_are_those_of_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "model"
    write_tensors(path, TENSORS, metadata)
    theirs = save({name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}, metadata=metadata)
    assert path.read_bytes() == theirs
    assert torch.equal(load_file(path)["strided"], TENSORS["strided"])


def test_what_was_longer_before_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "update"
    overwrite_tensors(path, TENSORS)
    inode = path.stat().st_ino
    overwrite_tensors(path, {"w": torch.ones(3)})
    assert path.read_bytes() == save({"w": torch.ones(3)})
    # In place: no other file.
    assert path.stat().st_ino == inode


def test_a_dtype_that_the_format_lacks_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tensor 'z' is torch\.complex128"):
        write_tensors(tmp_path / "model", {"z": torch.zeros(2, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []
