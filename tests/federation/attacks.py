"""What a site may send wrong, as changes of an honest reply, and what the refusal says."""

from __future__ import annotations

import dataclasses
import json
import math

import torch

from consilia.federation.messages import Reply

CULPRIT = "hospital-3"


def change_tensors(**changes):
    def change(reply: Reply) -> Reply:
        tensors = dict(reply.tensors)
        for name, value in changes.items():
            name = name.replace("__", ".")
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value(tensors.get(name)) if callable(value) else value
        return dataclasses.replace(reply, tensors=tensors)

    return change


def change_content(**changes):
    def change(reply: Reply) -> Reply:
        return dataclasses.replace(reply, content=json.dumps({**json.loads(reply.content), **changes}))

    return change


def change_metrics(**changes):
    def change(reply: Reply) -> Reply:
        content = json.loads(reply.content)
        content["received"]["test"] |= changes
        return dataclasses.replace(reply, content=json.dumps(content))

    return change


def add_a_task(reply: Reply) -> Reply:
    own = json.loads(reply.content)["received"]["test"]
    return change_metrics(tasks={"fever": own})(reply)


BIAS = "layers__0__bias"
ATTACKS = {
    "nan": (change_tensors(**{BIAS: lambda t: t * math.nan}), "'layers.0.bias' holds NaN"),
    "infinity": (change_tensors(**{BIAS: lambda t: t + math.inf}), "'layers.0.bias' holds infinite"),
    "wrong shape": (change_tensors(**{BIAS: torch.zeros(1)}), r"'layers.0.bias' has shape \(1,\), expected \(8,\)"),
    "wrong dtype": (change_tensors(**{BIAS: lambda t: t.double()}), "dtype torch.float64"),
    "missing key": (change_tensors(**{BIAS: None}), "missing tensor 'layers.0.bias'"),
    "extra key": (change_tensors(trojan=torch.ones(2)), "extra tensor 'trojan'"),
    "not a tensor": (change_tensors(**{BIAS: "hello"}), "is a str"),
    "huge change": (change_tensors(**{BIAS: lambda t: t + 1e6}), "norm of the change"),
    "weight 1e12": (change_content(cases=10**12), "cases: .*10000000; got 1000000000000"),
    "weight -1": (change_content(cases=-1), "cases: .*got -1"),
    "weight 10**400": (change_content(cases=10**400), "does not fit its schema"),
    "more cases than declared": (change_content(cases=9_999_999), "weight is 9999999 cases, the site declared"),
    "weight NaN": (change_content(cases=math.nan), "cases"),
    "score 2": (change_content(weight=2.0), "weight is 2.0"),
    "score -1": (change_content(weight=-1.0), "weight is -1.0"),
    "score NaN": (change_content(weight=math.nan), "weight is"),
    "no score": (change_content(weight=None), "weight is None"),
    "replayed round": (change_content(round=0), "the request was about round"),
    "impossible accuracy": (
        change_content(fields={"train_accuracy": 2.0}),
        "train_accuracy is 2.0",
    ),
    "unknown metric": (
        change_content(fields={"label_entropy": 0.5}),
        "'label_entropy' is not declared",
    ),
    "endless seconds": (change_content(seconds=1.7e308), "seconds"),
    "more correct than cases": (change_metrics(correct=10**6), "disagree"),
    "accuracy that is not correct / count": (change_metrics(accuracy=1.0, correct=0), "disagree"),
    "more flips than cases": (change_metrics(negative_flips=10**9), "disagree"),
    "more test cases than declared": (
        change_metrics(count=999, correct=999, accuracy=1.0),
        "received.test.count is 999, the site declared",
    ),
    "metrics of a task it does not have": (add_a_task, r"received.test.tasks are \['fever'\], the site declared \[\]"),
    "count 10**400": (change_metrics(count=10**400), "does not fit its schema"),
    "surrogate": (lambda reply: dataclasses.replace(reply, content="\ud800"), r"cannot be read \(UnicodeEncodeError\)"),
    "4 MB of text": (change_content(note="x" * 4_000_000), "bytes, at most 256000 expected"),
    "sparse": (change_tensors(**{BIAS: lambda t: t.to_sparse()}), "torch.sparse_coo on cpu|cannot be read"),
    "meta": (change_tensors(**{BIAS: lambda t: t.to("meta")}), "on meta"),
    "label counts": (change_content(label_counts=[3, 4]), "label_counts"),
    "not JSON": (lambda reply: dataclasses.replace(reply, content="{"), "does not fit its schema"),
    "an error of two lines": (lambda reply: Reply(error="DataError\n2026 - ERROR - forged"), "with an unnamed error"),
    "a key of two lines": (change_content(**{"a\nb\x1b[31m\u202e": 1}), r"a\\nb\\x1b\[31m\\u202e: unknown key"),
    "a variant of two lines": (change_content(fields={"a\nb": 0.5}), r"fields.a\\nb.*no control characters"),
    "an error": (lambda reply: Reply(error="DataError"), "failed with DataError"),
}
