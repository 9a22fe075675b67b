"""What the parts of the GPU check share: its arguments, a JSON file that is always whole, and the time that is left."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from leadwise.files import replacing

Json = dict[str, Any]


@dataclass
class Part:
    """One part of the check: where it reads and writes, on which device, and how long it may take."""

    name: str  # of a key of `gpu.GPU_SECONDS`
    out: Path  # folder of the results
    cohort: Path  # folder of the unpacked cohort
    device: str  # cuda or cpu
    seconds: float  # that the part may take
    results: Json = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (time.perf_counter() - self.began)

    def store(self, key: str, value: Any) -> None:
        """Add a result and write all results so far to OUT/NAME.json, so that a run that is cut still counts."""
        self.results[key] = value
        write_json(self.out / f"{self.name}.json", self.results)
        print(f"[{self.name} {time.perf_counter() - self.began:5.1f} s] {key}: {json.dumps(value)[-150:]}", flush=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a temporary file and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Json:
    """Return the content of a JSON file; nothing if there is no such file."""
    content: Json = json.loads(path.read_text()) if path.exists() else {}
    return content


def wait(device: str) -> None:
    """Wait until the device has done all that was queued."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
