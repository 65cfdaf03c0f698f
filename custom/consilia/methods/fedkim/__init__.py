"""FedKIM: sites train light encoders, the server injects what they know into a frozen medical language model.

"FedKIM: Adaptive Federated Knowledge Injection into Medical Foundation Models", EMNLP 2024 (arXiv 2408.10276). The
injection is M3OE, a mixture of low-rank experts (:mod:`~consilia.methods.fedkim.m3oe`) whose gates a router computes
from the descriptions of the task and its modalities (:mod:`~consilia.methods.fedkim.router`).
"""
