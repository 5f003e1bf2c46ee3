"""Every test, and every notebook that nbval executes, runs in the smoke profile without bars."""

import os

os.environ.setdefault("HUMR_PROFILE", "smoke")
os.environ.setdefault("TQDM_DISABLE", "1")
