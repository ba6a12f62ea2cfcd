"""ComfyUI's modules in this process, without a server. Import this before them; `args` are ComfyUI's own."""

import sys

import torch

from .host import running_host

sys.path.insert(0, str(running_host().comfyui))

from comfy.cli_args import args

args.cpu = not torch.cuda.is_available()
args.use_pytorch_cross_attention = True
