"""Product quantization: vectors in a few bytes each, and what that costs in neighbours.

    quantize             a table's codes, by a codebook that is trained on it or was before
    compression_sweep    neighbour recall against the compression factor, over codecs and code sizes
    plot_sweep           its figure (TwHIN, El-Kishky et al. 2022, Fig. 4a)

Codebooks are trained by faiss; ``recokit.PQTable`` holds and decodes them without it.
"""

__all__ = ["compression_sweep", "plot_sweep", "quantize"]

from recokit.pq.encoding import quantize
from recokit.pq.figure import plot_sweep
from recokit.pq.sweep import compression_sweep
