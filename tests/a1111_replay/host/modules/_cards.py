"""From a page's items to HTML: what a card must bring differs between the releases until 1.7 and since 1.8."""

from __future__ import annotations

import html
import os
from typing import Any

from modules import _host, shared

IS_OLD = not _host.at_least(8)


def pane(page: Any, tabname: str) -> str:
    """All cards of one page, and since 1.8 the tree of folders."""
    cards = [card(page, tabname, item) for item in page.items.values()]
    if not cards:
        folders = "".join(f"<li>{folder}</li>" for folder in page.allowed_directories_for_previews())
        cards = [shared.html("extra-networks-no-cards.html").format(dirs=folders)]
    tree = "" if IS_OLD else _tree(page)
    return f"<div id='{tabname}_{page.name.replace(' ', '_')}_cards'>{tree}{''.join(cards)}</div>"


def _tree(page: Any) -> str:
    """Files found below the folders, matched with the items by their exact path."""
    if shared.opts.extra_networks_tree_view_style != "Tree":
        return ""
    items = {item["filename"]: item for item in page.items.values()}
    rows = []
    for folder in map(os.path.abspath, page.allowed_directories_for_previews()):
        for root, _, files in sorted(os.walk(folder)):
            found = (items[path] for path in (os.path.join(root, name) for name in sorted(files)) if path in items)
            rows += [f"<li data-hash='{item['shorthash']}'>{item['name']}</li>" for item in found]
    return f"<ul class='tree-list'>{''.join(rows)}</ul>"


def card(page: Any, tabname: str, item: dict[str, Any]) -> str:
    """The card of one item; missing ``prompt``, ``name`` or ``local_preview`` is a KeyError."""
    from modules.ui_extra_networks import quote_js

    clicked = item.get("onclick")
    if clicked is None:
        negative = str(page.allow_negative_prompt).lower()
        if IS_OLD:
            script = html.escape(f"return cardClicked({quote_js(tabname)}, {item['prompt']}, {negative})")
            clicked = f'"{script}"'
        else:
            second = item.get("negative_prompt", "''")
            clicked = html.escape(f"cardClicked('{tabname}', {item['prompt']}, {second}, {negative});")
    hidden = _is_hidden(page, item)
    if hidden and shared.opts.extra_networks_hidden_models == "Never":
        return ""
    preview = item.get("preview")
    description = (item.get("description") or "") if shared.opts.extra_networks_card_show_desc else ""
    is_html = IS_OLD or shared.opts.extra_networks_card_description_is_html
    terms = "".join(f"<span class='hidden search_terms'>{term}</span>" for term in item.get("search_terms", []))
    fields = {
        "background_image": f'<img src="{html.escape(preview)}" class="preview">' if preview else "",
        "card_clicked": clicked,
        "copy_path_button": "" if IS_OLD else f'<div data-clipboard-text="{item["filename"]}"></div>',
        "description": description if is_html else html.escape(description),
        "edit_button": "<div class='edit-button'></div>",
        "local_preview": quote_js(item["local_preview"]),
        "metadata_button": "<div class='metadata-button'></div>" if item.get("metadata") else "",
        "name": html.escape(item["name"]),
        "prompt": item.get("prompt"),
        "search_only": " search_only" if hidden else "",
        "search_term": item.get("search_term", ""),
        "search_terms": terms,
        "sort_keys": " ".join(f'data-sort-{k}="{html.escape(str(v))}"' for k, v in item.get("sort_keys", {}).items()),
        "style": "''" if IS_OLD else "",
        "tabname": tabname,
    }
    return shared.html("extra-networks-card.html").format(**fields)


def _is_hidden(page: Any, item: dict[str, Any]) -> bool:
    """Below a folder whose name begins with a dot."""
    if shared.opts.extra_networks_hidden_models == "Always":
        return False
    folders = map(os.path.abspath, page.allowed_directories_for_previews())
    filename = item.get("filename", "")
    return any("/." in filename[len(folder) :] for folder in folders if filename.startswith(folder))
