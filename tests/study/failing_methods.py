"""Methods that go wrong: a plugin."""

import torch

from consilia import methods as fl


class _Diverging(fl.Client[fl.MethodConfig]):
    def train(self, round_: fl.Round) -> fl.Update:
        self.load(round_.state)
        result = self.fit(round_)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.fill_(float("nan"))
        return self.update(result)


class Diverging(fl.Method[fl.MethodConfig]):
    """Its weights become NaN."""

    name = "diverging"

    def client(self, context: fl.ClientContext) -> _Diverging:
        """The site's half."""
        return _Diverging(self, context)


class _Raising(fl.Client[fl.MethodConfig]):
    def train(self, round_: fl.Round) -> fl.Update:
        raise ValueError("a mistake of its author")


class Raising(fl.Method[fl.MethodConfig]):
    """It raises."""

    name = "raising"

    def client(self, context: fl.ClientContext) -> _Raising:
        """The site's half."""
        return _Raising(self, context)
