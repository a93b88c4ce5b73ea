"""Ostiary: one governed gateway in front of your own models and your own data."""

import os

__version__ = "0.1.0"

# Here, before anything is imported that phones home unless told otherwise: ONNX Runtime does so
# from 1.29 on, when its first session is made. Processes that are started inherit it.
os.environ |= {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
