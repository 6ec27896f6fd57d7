"""The replay itself: points of the contract about loading, callbacks and settings (1 to 4, 15, 16, 20 and 22)."""

from __future__ import annotations

import sys

import pytest
import torch

from a1111_replay import WebUI, probes
from a1111_replay.forge import Classic

VERSIONS = ("1.5", "1.6", "1.9", "1.10")


@pytest.mark.parametrize("version", VERSIONS)
def test_point_1_before_ui_and_script_unloaded_run_in_reverse_and_others_do_not(version, tmp_path):
    body = """
        for event in ("before_ui", "app_started", "model_loaded", "script_unloaded", "before_reload"):
            getattr(script_callbacks, f"on_{event}")(lambda *args, event=event: log(f"%s:{event}"))
    """
    both = [probes.extension(tmp_path, name, body % name) for name in ("aa", "bb")]
    with WebUI(version, tmp_path, extensions=both) as webui:
        webui.start().reload_ui()
        seen = probes.only(webui.events, "aa:", "bb:")
    assert seen[:6] == [
        *("aa:model_loaded", "bb:model_loaded", "bb:before_ui", "aa:before_ui", "aa:app_started", "bb:app_started")
    ]
    assert seen[6:10] == ["aa:before_reload", "bb:before_reload", "bb:script_unloaded", "aa:script_unloaded"]


@pytest.mark.parametrize(("version", "last"), [("1.5", "lora"), ("1.6", "lora"), ("1.9", "lora"), ("1.10", "lora")])
def test_the_built_in_extension_comes_first_or_last_by_release_and_place(version, last, tmp_path):
    mine = probes.extension(tmp_path, "zz", "script_callbacks.on_before_ui(lambda: log('mine'))")
    orders = []
    for elsewhere in (False, True):
        with WebUI(version, tmp_path / str(elsewhere), extensions=[mine], data_dir_elsewhere=elsewhere) as webui:
            webui.start()
            orders.append(probes.only(webui.events, "script:lora", "script:zz"))
    user_first, builtin_first = ["script:zz.py", "script:lora_script.py"], ["script:lora_script.py", "script:zz.py"]
    assert orders == ([user_first, builtin_first] if version in ("1.5", "1.6") else [builtin_first, builtin_first])


def test_point_2_what_a_callback_raises_is_reported_and_the_next_one_is_called(tmp_path):
    body = """
        def fail(*args):
            raise ValueError("not today")
        script_callbacks.on_app_started(fail)
        script_callbacks.on_app_started(lambda demo, app: log("next"))
    """
    with WebUI("1.10", tmp_path, extensions=[probes.extension(tmp_path, "probe", body)]) as webui:
        webui.start()
        assert "next" in webui.events
        assert [str(error.exception) for error in webui.errors] == ["not today"]


def test_a_script_that_fails_is_reported_and_the_others_are_loaded(tmp_path):
    both = [probes.extension(tmp_path, "aa", "1 / 0"), probes.extension(tmp_path, "bb", "log('loaded')")]
    with WebUI("1.10", tmp_path, extensions=both) as webui:
        webui.start()
        assert "loaded" in webui.events
        assert isinstance(webui.errors[0].exception, ZeroDivisionError)


def test_point_3_the_list_of_sys_path_is_the_old_one_and_a_late_import_fails(tmp_path):
    body = """
        import sys
        from modules import scripts
        import probe_early
        log(f"first:{sys.path[0] == scripts.basedir()}")
        sys.path.append("/nowhere")

        def late(demo, app):
            log(f"later:{scripts.basedir() == scripts.paths.script_path}")
            import probe_late
        script_callbacks.on_app_started(late)
    """
    helpers = {"probe_early.py": "", "probe_late.py": ""}
    with WebUI("1.10", tmp_path, extensions=[probes.extension(tmp_path, "probe", body, helpers)]) as webui:
        before = sys.path
        webui.start()
        assert sys.path is before
        assert "/nowhere" not in sys.path
        assert {"first:True", "later:True"} <= set(webui.events)
        assert [type(error.exception) for error in webui.errors] == [ModuleNotFoundError]
        assert "probe_early" in sys.modules
    assert "probe_early" not in sys.modules


@pytest.mark.parametrize("version", VERSIONS)
def test_point_4_reload_runs_scripts_again_with_empty_registries_and_keeps_helpers(version, tmp_path):
    body = """
        import probe_helper
        from modules import extra_networks
        probe_helper.LOADED.append(1)
        log(f"times:{len(probe_helper.LOADED)} callbacks:{len(script_callbacks.callback_map['callbacks_ui_tabs'])}")
        script_callbacks.on_ui_tabs(lambda: [])
        script_callbacks.on_before_ui(lambda: log(f"registry:{sorted(extra_networks.extra_network_registry)}"))
        script_callbacks.on_app_started(lambda demo, app: extra_networks.register_extra_network(Thing()))

        class Thing(extra_networks.ExtraNetwork):
            def __init__(self): super().__init__("thing")
            def activate(self, p, params_list): ...
    """
    probe = probes.extension(tmp_path, "probe", body, {"probe_helper.py": "LOADED = []"})
    with WebUI(version, tmp_path, extensions=[probe], builtin_lora=False) as webui:
        app = webui.start().app
        pages = webui.module("ui_extra_networks").ExtraNetworksPage
        webui.reload_ui()
        seen = probes.only(webui.events, "times", "registry")
        assert seen == [
            *("times:1 callbacks:0", "registry:['hypernet']", "times:2 callbacks:0", "registry:['hypernet']")
        ]
        assert webui.app is not app
        assert (webui.module("ui_extra_networks").ExtraNetworksPage is pages) == (version != "1.5")
        assert not webui.errors


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_page_before_ui_is_called_since_1_6_and_settings_never(version, tmp_path):
    with WebUI(version, tmp_path, api_only=True) as webui:
        webui.start()
        called = set(probes.only(webui.events, "callback:"))
        assert "callback:app_started" in called
        assert ("callback:before_ui" in called) == (version != "1.5")
        assert not {"callback:ui_settings", "callback:ui_tabs"} & called


@pytest.mark.parametrize("version", VERSIONS)
def test_point_15_options_of_the_built_in_are_gone_with_it_and_late_templates_are_not_seen(version, tmp_path):
    body = """
        from modules import shared
        info = shared.OptionInfo
        shared.options_templates.update(shared.options_section(("probe", "Probe"), {"probe_early": info(1, "early")}))

        def started(demo, app):
            shared.options_templates["probe_late"] = info(2, "late", section=("probe", "Probe"))
            log(f"late:{hasattr(shared.opts, 'probe_late')} early:{shared.opts.probe_early}")
            shared.opts.onchange("probe_early", lambda: log("changed"))
            shared.opts.add_option("probe_added", info(3, "added", section=("probe", "Probe")))
            log(f"added:{shared.opts.probe_added} lora:{hasattr(shared.opts, 'sd_lora')}")
        script_callbacks.on_app_started(started)
    """
    probe = probes.extension(tmp_path, "probe", body)
    with WebUI(version, tmp_path, extensions=[probe], builtin_lora=False) as webui:
        webui.start()
        assert not webui.errors
        assert {"late:False early:1", "changed", "added:3 lora:False"} <= set(webui.events)
        webui.events.clear()
        assert webui.set_option("probe_early", 5)
        assert not webui.set_option("probe_early", 5)
        assert webui.events == ["changed"]
        with pytest.raises(AttributeError):
            _ = webui.opts.no_such_option


def test_point_16_metadata_ini_can_order_scripts_but_its_name_and_requires_are_of_no_use(tmp_path):
    ini = "[Extension]\nName = other\nRequires = Lora\n[scripts]\nAfter = zz\n"
    first = probes.extension(tmp_path, "aa", "log('aa')", {"metadata.ini": ini})
    second = probes.extension(tmp_path, "zz", "log('zz')")
    for version, order, complaints in (("1.6", ["aa", "zz"], 0), ("1.10", ["zz", "aa"], 1)):
        with WebUI(version, tmp_path / version, extensions=[first, second]) as webui:
            webui.start()
            assert [event for event in webui.events if event in ("aa", "zz")] == order
            assert len(webui.errors) == complaints
            assert all('requires "lora" which is not installed' in error.message for error in webui.errors)
            if version == "1.10":
                assert "aa" in [each.canonical_name for each in webui.module("extensions").extensions]


def test_point_16_before_means_after_for_callbacks_that_run_in_reverse(tmp_path):
    events = ("before_ui", "app_started")
    ini = "".join(f"[callbacks/bb/bb.py/{event}]\nBefore = aa/aa.py/{event}\n" for event in events)
    body = """
        for event in ("before_ui", "app_started"):
            getattr(script_callbacks, f"on_{event}")(lambda *args, event=event: log(f"%s:{event}"))
    """
    first = probes.extension(tmp_path, "aa", body % "aa")
    second = probes.extension(tmp_path, "bb", body % "bb", {"metadata.ini": ini})
    with WebUI("1.10", tmp_path, extensions=[first, second]) as webui:
        webui.start()
        seen = probes.only(webui.events, "aa:", "bb:")
    assert seen == ["aa:before_ui", "bb:before_ui", "bb:app_started", "aa:app_started"]


def test_point_20_looking_at_the_model_loads_it_and_model_data_does_not(tmp_path):
    with WebUI("1.10", tmp_path, model_loads="never") as webui:
        webui.start()
        assert webui.model is None
        assert "weights:alpha" not in webui.events
        assert webui.module("shared").sd_model is webui.model
        assert "weights:alpha" in webui.events


@pytest.mark.parametrize("version", VERSIONS)
def test_point_22_names_that_a_release_lacks_can_not_be_imported(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        webui.start()
        for name in ("util", "options", "patches"):
            assert _can_import(webui, name) == (version != "1.5"), name
        assert _can_import(webui, "infotext_utils") == (version in ("1.9", "1.10"))
        assert _can_import(webui, "generation_parameters_copypaste")
        callbacks = webui.module("script_callbacks")
        assert hasattr(callbacks, "on_before_token_counter") == (version in ("1.9", "1.10"))
        if version in ("1.5", "1.6"):
            with pytest.raises(TypeError):
                callbacks.on_before_ui(print, name="mine")
        else:
            callbacks.on_before_ui(print, name="mine")
            assert callbacks.callback_map["callbacks_before_ui"][-1].name.endswith("/before_ui/mine")


def test_point_22_classic_lacks_more(tmp_path):
    with Classic(tmp_path) as webui:
        webui.start()
        assert not webui.errors
        assert not _can_import(webui, "generation_parameters_copypaste")
        assert not _can_import(webui, "lowvram")
        callbacks = webui.module("script_callbacks")
        assert not hasattr(callbacks, "on_list_optimizers")
        with pytest.raises(TypeError):
            callbacks.on_before_ui(print, name="mine")


def test_nothing_is_left_behind(tmp_path):
    forward, modules, path, content = torch.nn.Linear.forward, dict(sys.modules), sys.path, list(sys.path)
    with WebUI("1.5", tmp_path) as webui:
        webui.start()
        assert torch.nn.Linear.forward is not forward
        assert "networks" in sys.modules
    assert torch.nn.Linear.forward is forward
    assert not hasattr(torch.nn, "Linear_forward_before_network")
    assert sys.path is path
    assert sys.path == content
    names = ("modules", "lycopatch", "gradio", "networks", "lora", "launch")
    ours = lambda found: {name: each for name, each in found.items() if name.split(".")[0] in names}  # noqa: E731
    assert ours(sys.modules) == ours(modules)


def _can_import(webui, name):
    try:
        webui.module(name)
    except ImportError:
        return False
    return True
