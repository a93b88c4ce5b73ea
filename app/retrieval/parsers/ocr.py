"""Reads the text of pictures with RapidOCR, whose models come inside its package."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from statistics import median
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError, corrupt
from app.retrieval.parsers.layout import Span, read_order
from app.retrieval.parsers.pages import Page, compose

MAX_PIXELS = 100_000_000  # of one picture; a scan at 600 dpi of A4 has 35 million
MAX_FRAMES = 500  # pages of one TIFF
LONGER_SIDE = 2500  # pixels; larger pictures are made smaller before they are read
_LARGER = 1.35  # times the usual height of a line
_SURE = 0.5  # the lowest score of a line that is kept, of 1

_lock = threading.Lock()
_engine: Any = None


def available() -> bool:
    """Tell whether the ``ocr`` extra is installed."""
    return importlib.util.find_spec("rapidocr") is not None


def parse_image(path: Path, filename: str) -> list[Block]:
    """Return the text of a picture; each frame of a TIFF is a page, counted from 1.

    Raises:
        DocumentError: ``ocr_missing``, ``corrupt_file``, ``too_large``, ``too_many_pages``.
    """
    if not available():
        raise DocumentError(
            "ocr_missing",
            f"'{filename}' is a picture, and reading pictures is not installed here. Run "
            "`pip install 'ostiary[ocr]'` on the server, or upload the text.",
        )
    from PIL import Image, UnidentifiedImageError

    pages = []
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            frames = getattr(picture, "n_frames", 1)
            if frames > MAX_FRAMES:
                raise DocumentError(
                    "too_many_pages",
                    f"'{filename}' has {frames} pages; at most {MAX_FRAMES} are read. Split it.",
                )
            for number in range(1, frames + 1):
                picture.seek(number - 1)
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise DocumentError(
                        "too_large",
                        f"'{filename}' has {width} x {height} pixels; at most "
                        f"{MAX_PIXELS // 10**6} million are read. Make it smaller.",
                    )
                pixels = _pixels(picture)
                size = pixels.shape
                pages.append(Page(number, size[1], size[0], read_order(read_image(pixels))))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise corrupt(filename, "picture", "Save it as PNG and upload that.") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise corrupt(filename, "picture", "Save it as PNG and upload that.") from error
    return compose(pages, {})


def _pixels(picture: Any) -> Any:
    """Return the picture upright: uint8 array of shape (height, width, 3) in BGR."""
    import numpy as np
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture) or picture
    if upright.mode in ("RGBA", "LA", "P"):  # what is transparent is shown on white
        layer = upright.convert("RGBA")
        upright = Image.new("RGBA", layer.size, "white")
        upright.alpha_composite(layer)
    upright = upright.convert("RGB")
    upright.thumbnail((LONGER_SIDE, LONGER_SIDE))
    return np.ascontiguousarray(np.asarray(upright)[:, :, ::-1])


def read_image(pixels: Any) -> list[Span]:
    """Return the lines of text in a picture, lengths in pixels.

    Args:
        pixels: uint8 array of shape (height, width, 3) in BGR.
    """
    with _lock:  # one picture at a time keeps memory bounded and leaves cores to the callers
        result = _loaded()(pixels)
    if result.boxes is None or result.txts is None:
        return []
    lines: list[tuple[str, float, float, float, float]] = []
    for box, text, score in zip(result.boxes, result.txts, result.scores, strict=True):
        if score < _SURE or not text.strip():
            continue
        xs, ys = [float(p[0]) for p in box], [float(p[1]) for p in box]
        lines.append((text.strip(), min(xs), min(ys), max(xs), max(ys)))
    if not lines:
        return []
    usual = median(bottom - top for _, _, top, _, bottom in lines)
    return [
        # A box is as high as its letters happen to reach: only a clear difference is a larger type.
        Span(text, x0, top, x1, bottom, bottom - top if bottom - top > _LARGER * usual else usual)
        for text, x0, top, x1, bottom in lines
    ]


def _loaded() -> Any:
    global _engine
    if _engine is None:
        from rapidocr import RapidOCR

        _engine = RapidOCR(
            params={
                "Global.log_level": "error",
                # Finds lines that stand upside down: a tenth of the time, and seldom any.
                "Global.use_cls": False,
                # Named outright, or RapidOCR looks for newer ones on the network.
                "Det.model_path": _model("det"),
                "Rec.model_path": _model("rec"),
                "EngineConfig.onnxruntime.intra_op_num_threads": 2,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
    return _engine


def _model(task: str) -> str:
    """Return the path of the model inside the installed package."""
    spec = importlib.util.find_spec("rapidocr")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        for path in sorted(Path(folder, "models").glob(f"*_{task}_*.onnx")):
            return str(path)
    raise DocumentError(
        "ocr_missing",
        "The installed rapidocr has no models in it. Run `pip install 'ostiary[ocr]'` on the "
        "server.",
    )
