"""The worker program, internal: draws and encodes. For `stepreel.service`, which runs it, and `stepreel.rendering`."""
