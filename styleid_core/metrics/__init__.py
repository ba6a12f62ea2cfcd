"""The paper's measures of a style transfer: CFSD, LPIPS, FID and ArtFID, color histograms. No ComfyUI import."""
