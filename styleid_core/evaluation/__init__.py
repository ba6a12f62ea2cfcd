"""The paper's measures of a style transfer: CFSD, LPIPS, FID and ArtFID, colour histograms. No ComfyUI import."""
