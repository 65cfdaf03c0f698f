"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020."""
