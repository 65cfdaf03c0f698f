"""FedKPer: Fowler & AlRegib, "FedKPer: Tackling Generalization and Personalization in Medical Federated Learning via
Knowledge Personalization", ICIP 2026, arXiv 2605.00698.

Sites pull their model towards the global one only as far as that one is correct on their own labels
(:mod:`~consilia.methods.fedkper.alignment`); the server weighs updates by reliability x label diversity
(:mod:`~consilia.methods.fedkper.reliability`).
"""
