"""The bundled small model: how its training data is drawn and spoken, and how it was trained."""
