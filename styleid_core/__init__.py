"""StyleID (Chung et al., CVPR 2024, arXiv 2312.09008) in plain torch: the algorithm, with no ComfyUI import.

Coordinates: `z` is the variance-preserving latent of the paper, `x = z * sqrt(1 + sigma^2)` the variance-exploding one
that k-diffusion and ComfyUI sample in, `sigma = sqrt((1 - alpha_bar) / alpha_bar)`.
"""
