"""The HTML around a card, in the fields that each release fills in."""

from __future__ import annotations

from modules import _host

_OLD_CARD = (
    "<div class='card' style={style} onclick={card_clicked} data-name='{name}' {sort_keys}>{background_image}"
    "<div class='button-row'>{metadata_button}{edit_button}</div>"
    "<span class='hidden {search_only}'>{search_term}</span>"
    "<span class='name'>{name}</span><span class='description'>{description}</span></div>"
)
_NEW_CARD = (
    '<div class="card" style="{style}" onclick="{card_clicked}" data-name="{name}" {sort_keys}>{background_image}'
    '<div class="button-row">{copy_path_button}{metadata_button}{edit_button}</div>'
    '{search_terms}<span class="name">{name}</span><span class="description">{description}</span></div>'
)

TEMPLATES = {
    "extra-networks-card.html": _NEW_CARD if _host.at_least(8) else _OLD_CARD,
    "extra-networks-no-cards.html": "<div class='nocards'>Nothing here. Folders: {dirs}</div>",
}
