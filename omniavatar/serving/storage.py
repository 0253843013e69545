"""A bucket of S3-compatible storage, for videos that are too large for an answer."""

import re
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from omniavatar import OutputError
from omniavatar.serving.settings import WorkerSettings

LONGEST_REASON = 200
PROBE = "omniavatar-worker"
REGION = re.compile(r"\bs3(?:api)?(?:\.dualstack)?[.-]([a-z]+(?:-[a-z0-9]+)+)\.")


class Bucket:
    """One bucket. That it can be written to is tried with an empty object, `PROBE`.

    Args:
        settings: of a worker that has a bucket.

    Raises:
        OutputError: there is no such bucket, or the key may not write to it.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._name = settings.bucket_name
        self._link_seconds = settings.bucket_link_seconds
        try:
            self._client: Any = boto3.client(
                "s3",
                endpoint_url=settings.bucket_endpoint,
                aws_access_key_id=settings.bucket_key,
                aws_secret_access_key=settings.bucket_secret,
                region_name=settings.bucket_region or region_of(settings.bucket_endpoint or ""),
                config=Config(
                    signature_version="s3v4",
                    connect_timeout=10,
                    retries={"max_attempts": 4, "mode": "standard"},
                    # Checksums in trailers are Amazon's own: other storage refuses them.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
            self._client.head_bucket(Bucket=self._name)
            self._client.put_object(Bucket=self._name, Key=PROBE, Body=b"")
        except (BotoCoreError, ClientError, ValueError) as error:
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            raise OutputError(
                f"The bucket {self._name!r} at {settings.bucket_endpoint} can not be used "
                f"({reason}). Check BUCKET_NAME, BUCKET_ENDPOINT_URL and the key."
            ) from error

    def upload(self, video: Path, name: str) -> str:
        """Store a video; the address from which anybody can load it for a while.

        Args:
            name: of the object; what had this name before is replaced.

        Raises:
            OutputError: it could not be stored.
        """
        try:
            self._client.upload_file(
                str(video), self._name, name, ExtraArgs={"ContentType": "video/mp4"}
            )
            link = self._client.generate_presigned_url(
                "get_object",
                Params={"Bucket": self._name, "Key": name},
                ExpiresIn=self._link_seconds,
            )
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise OutputError(f"The video could not be stored in the bucket ({error}).") from error
        assert isinstance(link, str)
        return link


def region_of(endpoint: str) -> str:
    """The region that signatures have to name, from an address such as s3.eu-west-1.amazonaws.com;
    "auto" where the address has none."""
    if endpoint.rstrip("/").endswith("//s3.amazonaws.com"):
        return "us-east-1"
    found = REGION.search(endpoint.lower())
    return found[1] if found else "auto"
