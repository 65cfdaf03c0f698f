"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.

Its personalise step after the last round is plain local fine-tuning: the personal yardstick.
"""
