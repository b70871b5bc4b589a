"""How the parameters of a model are executed: PyTorch's own modules, the fused kernels, or what measures faster."""
