"""Training of denoising priors; needs torch, numpy, scikit-image and safetensors only."""
