"""Files to arrays and back: pictures, speech, video. numpy, PIL and ffmpeg; no torch."""
