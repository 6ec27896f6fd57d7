"""Words for a person about a file that can not be used: system errors, odd names, and what a file really is."""

from __future__ import annotations


def system_reason(error: OSError | ValueError) -> str:
    """The reason for an error of the operating system, or for a path (ValueError) that can be no path."""
    if isinstance(error, ValueError):
        return "its path contains characters that no path can have."
    if isinstance(error, FileNotFoundError):
        return "there is no such file."
    if isinstance(error, PermissionError):
        return "the system does not permit to read it. Check the file's permissions."
    return f"the system reports: {error.strerror or error}. Check the disk or the network drive."


def mistaken_identity(head: bytes) -> str | None:
    """What a file that starts with ``head`` (some 64 bytes) is, when it is one of the usual things saved by mistake.

    Ask only for files that are not valid anyway: the first bytes of a safetensors file are a number, and every
    number spells something.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, a few lines of text instead of the network. Download the file itself."
    if text[:1] == b"<" and (text[1:2].isalpha() or text[1:2] in (b"!", b"?")):
        return "it is a web page that was saved under this name. Download again (the site may want you to log in)."
    if text.startswith((b'{"', b"{'", b'["', b"[{")) or (text.startswith(b"{") and text[1:].lstrip().startswith(b'"')):
        return "it is a text file (JSON), often the error message of a download. Download again."
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return (
            "it is a PyTorch pickle or a zip archive that was named .safetensors. Convert it to safetensors, "
            "or unpack the archive."
        )
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\x1f\x8b")):
        return "it is a packed archive. Unpack it first."
    if head.startswith(b"GGUF"):
        return "it is a GGUF file, a format for quantised models that networks are not loaded from."
    if head and not head.strip(b"\0"):
        return "it begins with nothing but zeros: the download did not finish. Download again."
    return None
