"""The shapes of what our HTTP routes answer, for pydantic 1 and 2 and for the OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Network(BaseModel):
    """One network of the catalog."""

    id: str = Field(..., description="Opaque; the same while the file keeps its name and place below its folder.")
    name: str = Field(..., description="What a tag calls it: <lora:name:1>.")
    file: str = Field(..., description="The file's path below its folder.")
    alias: str | None = Field(None, description="What its trainer called it.")
    trigger_words: list[str] = Field(..., description="Trigger phrase, else the most frequent tags of its pictures.")
    base_model: str | None = Field(None, description="What the metadata say it was made for.")
    algorithm: str | None = Field(None, description="What the metadata say it is.")
    size: int = Field(..., description="Bytes.")
    modified: float = Field(..., description="Unix seconds.")
    error: str | None = Field(None, description="Why the file can not be read, if so.")


class NetworkPage(BaseModel):
    """Some of the networks that were found."""

    total: int = Field(..., description="How many networks fit the search.")
    offset: int
    networks: list[Network]
    problems: list[str] = Field(..., description="Folders and files that can not be read, in sentences.")


class NetworkDetails(Network):
    """One network, with what its file holds when that was asked for."""

    details: dict[str, Any] | None = Field(None, description="As `lycopatch inspect --json` describes a file.")


class Trouble(BaseModel):
    """One trouble in one sentence."""

    kind: str
    message: str
    tag: str | None = None
    layer: str | None = None


class TagResult(BaseModel):
    """What one tag of the prompt did."""

    tag: str
    name: str
    file: str | None = Field(None, description="The file's name, without folders.")
    te_multiplier: float
    unet_multiplier: float
    failed: bool = Field(..., description="There is no such network, or its file can not be read.")
    layers_applied: int
    layers_total: int
    keys: dict[str, int] = Field(..., description="How many keys of the file ended how.")
    issues: list[Trouble]


class LastReport(BaseModel):
    """What the last activation did."""

    when: float = Field(..., description="Unix seconds.")
    model: str
    seconds: float
    tensors_written: int
    tensors_restored: int
    tensors_active: int
    bytes_held: int = Field(..., description="Memory used for originals.")
    tags: list[TagResult]
    issues: list[Trouble] = Field(..., description="Troubles that belong to no tag.")
