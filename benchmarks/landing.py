"""Landing one picture of 50 MB: how much memory above the idle task, and how long.

A PNG of noise (nothing compresses less) lies behind a presigned link of a real S3, as a vendor's result would,
and is fetched, verified and put back.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.memory import MB, peak, reset_peak
from demo.services import seaweedfs


def noise(side: int) -> bytes:
    """A PNG of random pixels, about 4 bytes each."""
    import numpy
    from PIL import Image

    pixels = numpy.random.default_rng(0).integers(0, 256, (side, side, 4), dtype=numpy.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG", compress_level=0)
    return file.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as s3:
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = s3.aws_connection()
        os.environ["AIRFLOW_CONN_PICWISH_DEFAULT"] = json.dumps(
            {"conn_type": "bgai_picwish", "password": "a-key", "extra": {"allow_private_hosts": True}}
        )
        for name, side in (("small.png", 64), ("large.png", 3540)):
            s3.client().put_object(Bucket=s3.bucket, Key=name, Body=noise(side))

        from airflow_provider_bgai.buying.landing import land
        from airflow_provider_bgai.buying.record import Call
        from airflow_provider_bgai.hooks import get_hook
        from airflow_provider_bgai.imaging.inspect import Inspection
        from airflow_provider_bgai.models import Generation
        from airflow_provider_bgai.storage import Storage

        storage, hook = Storage(), get_hook("picwish_default")

        def measure(name: str) -> tuple[int, float]:
            link = storage.presign(f"s3://{s3.bucket}/{name}")
            generation = Generation(vendor="picwish", state="succeeded", images=(link,))
            call = Call(
                call_id="0" * 32,
                fingerprint="f" * 64,
                number=1,
                run="r",
                owner="r/0",
                conn_id=hook.conn_id,
                vendor="picwish",
                sent_at=0,
                answer_by=0,
                inspection=Inspection(thresholds=None),
            )

            async def run() -> int:
                async with hook:
                    place = f"s3://{s3.bucket}/landed.png"
                    landing = await land(hook, generation, storage, call, None, lambda *_: place, lambda *_: place)
                    return landing.images[0].bytes

            began = time.perf_counter()
            return asyncio.run(run()), time.perf_counter() - began

        measure("small.png")  # everything imported and connected: the idle task
        idle = reset_peak()
        size, seconds = measure("large.png")
        print(f"landed {size / MB:.1f} MB in {seconds:.1f} s")
        print(
            f"idle task {idle / MB:.0f} MB, peak {peak() / MB:.0f} MB: {(peak() - idle) / MB:.0f} MB above (limit 150)"
        )


if __name__ == "__main__":
    main()
