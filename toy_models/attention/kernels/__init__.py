"""Attention and its row statistics as Triton kernels.  Nothing here is imported before a kernel is to run.

`tile` holds what every kernel does with one tile of scores; `forward`, `received`, `backward` are one kernel each or
two; `launch` lays the arguments out and lists the configurations; `serve` is what the backends call.
"""
