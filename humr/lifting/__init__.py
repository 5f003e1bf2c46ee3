"""The two lifting papers: Wehrbein et al. (ICCV 2021) and ProPose (AAAI 2025)."""
