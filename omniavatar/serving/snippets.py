"""A video's settings as a call of the API, to be copied: in Python, and with curl."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from omniavatar.serving import controls


def call_settings(
    model: str, values: Mapping[str, Any], *, memory: str | None = None
) -> dict[str, Any]:
    """What a call must say: the settings that are not at their defaults, and the model.

    Args:
        memory: how its networks are arranged; None as the server has it.
    """
    given = {
        name: value
        for name, value in values.items()
        if name in controls.ENTRIES
        and name not in ("image", "audio")
        and value != controls.ENTRIES[name].default
    }
    return given | {"model": model} | ({} if memory is None else {"memory": memory})


def python_call(url: str, image: str, audio: str, settings: Mapping[str, Any]) -> str:
    """The call with `gradio_client`.

    Args:
        url: of the app.
        image, audio: names of the files, as the caller has them.
        settings: see `call_settings`.
    """
    lines = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return (
        "from gradio_client import Client, handle_file\n\n"
        f"client = Client({url!r})\n"
        "video, settings = client.predict(\n"
        f"    image=handle_file({image!r}),\n"
        f"    audio=handle_file({audio!r}),\n"
        f"{lines}"
        '    api_name="/generate",\n'
        ")\n"
        "print(video)\n"
    )


def curl_call(url: str, image: str, audio: str, settings: Mapping[str, Any]) -> str:
    """The same in a shell: upload, begin, and listen until the video is there."""
    file = {"path": "$IMAGE", "meta": {"_type": "gradio.FileData"}}
    values = json.dumps(dict(settings), ensure_ascii=False)
    for sign in ("\\", "`", "$"):  # they mean something in the lines up to the second JSON
        values = values.replace(sign, f"\\{sign}")
    files = json.dumps({"image": file, "audio": {**file, "path": "$AUDIO"}})
    return (
        f"API={shlex.quote(url.rstrip('/') + '/gradio_api')}\n"
        'upload() { curl -s -F "files=@$1" "$API/upload" | tr -d \'[]"\'; }\n'
        f"IMAGE=$(upload {shlex.quote(image)})\n"
        f"AUDIO=$(upload {shlex.quote(audio)})\n"
        'JOB=$(curl -s "$API/call/v2/generate" -H "Content-Type: application/json" -d @- <<JSON\n'
        f"{files[:-1]}, {values[1:]}\n"
        "JSON\n"
        ")\n"
        'curl -s -N "$API/call/v2/generate/$(echo "$JOB" | cut -d \\" -f 4)"\n'
    )
