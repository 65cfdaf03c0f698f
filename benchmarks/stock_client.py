"""The site's script of the stock recipe: NVFlare copies this file into the job, so it imports nothing beside it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nvflare.client as flare
import torch
from torch import nn

from consilia.core.determinism import generator
from consilia.data.loading import load_site
from consilia.methods.fit import shuffled
from consilia.models.build import build_model


def main() -> None:
    """Receive, train, send, until the run ends."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    training = settings["training"]
    torch.set_num_threads(1)
    flare.init()
    name = flare.get_site_name()
    split = load_site(Path(settings["sites"][name]), "diagnosis").train
    model = build_model(settings["class"], settings["model"], seed=settings["seed"], allowed=(settings["class"],))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        with (Path(settings["clocks"]) / name).open("a") as clock:
            clock.write(f"{time.time()}\n")
        number = received.current_round + 1
        model.load_state_dict({key: torch.as_tensor(value) for key, value in received.params.items()})
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=training["learning_rate"] * training["learning_rate_decay"] ** (number - 1),
            momentum=training["momentum"],
            weight_decay=training["weight_decay"],
        )
        for indices in shuffled(
            len(split), training["batch_size"], generator(settings["seed"], "batches", name, number)
        ):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(split.inputs[indices]), split.labels[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        flare.send(flare.FLModel(params=model.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": len(split)}))


if __name__ == "__main__":
    main()
