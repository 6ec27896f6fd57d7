"""The replay itself: points of the contract about tags and who is called for them (5, 6, 8, 9, 10 and 19)."""

from __future__ import annotations

import pytest

from a1111_replay import GenerationFailed, WebUI, probes

VERSIONS = ("1.5", "1.6", "1.9", "1.10")
CALLS = ("activate:", "deactivate:")


@pytest.mark.parametrize("version", VERSIONS)
def test_point_2_an_activate_that_raises_is_called_again_with_nothing(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start().events.clear()
        webui.txt2img("a cat <probe:bad>")
        assert probes.only(webui.events, "activate:") == ["activate:probe[bad]", "activate:probe[]"]
        assert [str(error.exception) for error in webui.errors] == ["a bad tag"]


@pytest.mark.parametrize("version", VERSIONS)
def test_point_5_deactivate_is_called_once_per_job_and_only_after_tags(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start()
        for prompt, fields, expected in (
            ("a <probe:x>", {"n_iter": 2}, ["activate:probe[x]", "activate:probe[x]", "deactivate:probe"]),
            ("a", {}, ["activate:probe[]"]),
            ("a <other:x>", {}, ["activate:probe[]", "deactivate:probe"]),
        ):
            webui.events.clear()
            webui.txt2img(prompt, **fields)
            assert probes.only(webui.events, *CALLS) == expected
        webui.events.clear()
        with pytest.raises(GenerationFailed):
            webui.txt2img("a <probe:x>", fail_at_step=0)
        assert probes.only(webui.events, *CALLS) == ["activate:probe[x]"]


@pytest.mark.parametrize("version", VERSIONS)
def test_point_5_disabled_extra_networks_are_called_neither_way(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe:x>", disable_extra_networks=True)
        assert not probes.only(webui.events, *CALLS)


@pytest.mark.parametrize("version", VERSIONS)
def test_point_6_activate_is_called_per_batch_and_per_pass(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe:x>", n_iter=2, enable_hr=True, hr_prompt="b <probe:y>")
        assert probes.only(webui.events, "activate:") == ["activate:probe[x]", "activate:probe[y]"] * 2


@pytest.mark.parametrize("version", VERSIONS)
def test_point_6_with_little_memory_hires_activates_four_times_even_when_disabled(version, tmp_path):
    probe = probes.handler(tmp_path)
    with WebUI(version, tmp_path, extensions=[probe], arguments=["--medvram"]) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe:x>", enable_hr=True, hr_prompt="b <probe:y>")
        first, second = "activate:probe[x]", "activate:probe[y]"
        assert probes.only(webui.events, "activate:") == [first, second, first, second]
        webui.events.clear()
        webui.txt2img("c <probe:x>", enable_hr=True, hr_prompt="d <probe:y>", disable_extra_networks=True)
        assert probes.only(webui.events, "activate:") == [second, first]


BARE = """
import threading
from modules import extra_networks

class Watch(extra_networks.ExtraNetwork):
    def activate(self, p, params_list):
        bare = p.scripts is None and p.prompts is None and p.all_prompts is None and p.iteration == 0
        other = threading.current_thread() is not threading.main_thread()
        log(f"activate bare={bare} thread={other} while={p.is_hr_pass}")
    def deactivate(self, p): ...

script_callbacks.on_before_ui(lambda: extra_networks.register_extra_network(Watch("watch")))
"""


@pytest.mark.parametrize(("version", "loads", "calls"), [("1.5", "late", 0), ("1.10", "late", 1), ("1.10", "early", 0)])
def test_point_6_the_loader_activates_with_a_bare_p_from_its_thread(version, loads, calls, tmp_path):
    """With "early" it does so as well, but then nobody is registered yet."""
    probe = probes.extension(tmp_path, "probe", BARE)
    with WebUI(version, tmp_path, extensions=[probe], model_loads=loads) as webui:
        webui.start()
        assert webui.events.count("activate bare=True thread=True while=False") == calls
        assert ("get_empty_cond" in webui.events) == (version != "1.5")
        assert not webui.errors


def test_point_6_a_model_that_is_loaded_for_the_refiner_activates_in_the_middle_of_sampling(tmp_path):
    probe = probes.handler(tmp_path)
    with WebUI("1.10", tmp_path, extensions=[probe], settings={"sd_checkpoints_limit": 2}) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe:x>", steps=2, refiner_checkpoint="beta", refiner_switch_at=0.5)
        wanted = ("activate:", "refiner", "weights:", "get_empty_cond", "callback:cfg_denoiser", "conds")
        assert probes.only(webui.events, *wanted) == [
            *("activate:probe[x]", "conds", "conds", "callback:cfg_denoiser"),
            *(
                "refiner",
                "weights:beta",
                "get_empty_cond",
                "activate:probe[]",
                "conds",
                "conds",
                "callback:cfg_denoiser",
            ),
        ]
        assert webui.opts.sd_model_checkpoint.startswith("alpha")
        assert webui.model.sd_checkpoint_info.name_for_extra == "beta"


@pytest.mark.parametrize("version", VERSIONS)
def test_point_8_conditionings_are_kept_in_the_classes_by_the_text_of_tags(version, tmp_path):
    keeps = "persistent_cond_cache" if version != "1.5" else "experimental_persistent_cond_cache"
    with WebUI(version, tmp_path, settings={keeps: True}) as webui:
        webui.start()
        job = webui.module("processing").StableDiffusionProcessing
        cache = job.cached_c
        first = webui.txt2img("a cat <foo:x>").images[0]
        assert job.cached_c is cache
        assert _conds(webui, "a cat <foo:x>") == 0
        assert _conds(webui, "a cat <foo:y>") == 2
        cache[1].mul_(2)  # as if the text encoder had changed: nobody looks
        changed = webui.txt2img("a cat <foo:y>").images[0]
        assert not changed.equal(first)
        cache[0] = None
        assert webui.txt2img("a cat <foo:y>").images[0].equal(first)
        webui.opts.data[keeps] = False
        webui.txt2img("a cat <foo:y>")
        assert job.cached_c is not cache
        assert job.cached_c == [None, None]


def _conds(webui, prompt):
    webui.events.clear()
    webui.txt2img(prompt)
    return webui.events.count("conds")


def test_point_9_only_the_first_prompt_counts_and_negative_prompts_are_text(tmp_path):
    body = """
        from modules import scripts
        class Look(scripts.Script):
            def title(self): return "look"
            def show(self, is_img2img): return scripts.AlwaysVisible
            def process_batch(self, p, **given): log(f"prompts:{p.prompts} {p.negative_prompts}")
    """
    probe, look = probes.handler(tmp_path), probes.extension(tmp_path, "look", body)
    with WebUI("1.10", tmp_path, extensions=[probe, look]) as webui:
        webui.start().events.clear()
        webui.txt2img(["a <probe:x>", "b <probe:y><unknown:z>"], negative_prompt="n <probe:n>", batch_size=2)
        assert probes.only(webui.events, "activate:") == ["activate:probe[x]"]
        prompts, negative = ["a ", "b "], ["n <probe:n>"] * 2
        assert f"prompts:{prompts} {negative}" in webui.events


TWO_KEYS = """
    thing = Handler("probe")
    extra_networks.extra_network_registry["probe"] = extra_networks.extra_network_registry["probe2"] = thing
"""
ALIAS = """
    thing = Handler("probe")
    extra_networks.register_extra_network(thing)
    extra_networks.register_extra_network_alias(thing, "probe2")
"""


@pytest.mark.parametrize("register", [TWO_KEYS, ALIAS], ids=["two keys", "alias"])
@pytest.mark.parametrize("version", VERSIONS)
def test_point_10_one_handler_of_two_names_is_called_twice_in_1_5_and_once_since(version, register, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path, register=register)]) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe2:y> <probe:x>")
        twice, once = ["activate:probe[y]", "activate:probe[x]"], ["activate:probe[y,x]"]
        assert probes.only(webui.events, "activate:") == (twice if version == "1.5" else once)
        webui.events.clear()
        webui.txt2img("a")
        keys = 2 if register is TWO_KEYS else 1
        assert probes.only(webui.events, *CALLS) == ["activate:probe[]"] * keys


@pytest.mark.parametrize("version", VERSIONS)
def test_point_10_the_list_is_the_live_one_in_1_5_and_a_copy_since(version, tmp_path):
    body = """
        from modules import extra_networks
        class Watch(extra_networks.ExtraNetwork):
            def activate(self, p, params_list):
                if params_list:
                    log(f"live:{any(params_list is each for each in p.extra_network_data.values())}")
        script_callbacks.on_before_ui(lambda: extra_networks.register_extra_network(Watch("watch")))
    """
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", body)]) as webui:
        webui.start().txt2img("a <watch:x>")
        assert f"live:{version == '1.5'}" in webui.events


NESTED = """
    import copy
    from modules import processing, scripts

    class Nested(scripts.Script):
        def title(self): return "nested"
        def show(self, is_img2img): return scripts.AlwaysVisible
        def process(self, p): log("nested sees a job")
        def postprocess_image(self, p, pp):
            if getattr(p, "inner", False):
                return
            size = {"width": 32, "height": 32}
            inner = processing.StableDiffusionProcessingTxt2Img(prompt="b <probe:inner>", steps=1, seed=1, **size)
            inner.inner = True
            inner.scripts = copy.copy(p.scripts)
            inner.scripts.alwayson_scripts = []
            pp.image = processing.process_images(inner).images[0]
            log("inner done")
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_point_19_a_job_inside_a_job_activates_and_deactivates_between_the_outer_batches(version, tmp_path):
    both = [probes.handler(tmp_path), probes.extension(tmp_path, "nested", NESTED)]
    with WebUI(version, tmp_path, extensions=both) as webui:
        webui.start().events.clear()
        plain = webui.txt2img("b <probe:inner>", steps=1).images[0]
        webui.events.clear()
        result = webui.txt2img("a <probe:outer>", n_iter=2)
        inner = ["activate:probe[inner]", "deactivate:probe", "inner done"]
        assert probes.only(webui.events, *CALLS, "nested", "inner") == [
            *("nested sees a job", "activate:probe[outer]", *inner, "activate:probe[outer]", *inner, "deactivate:probe")
        ]
        assert result.images[0].equal(plain)
        assert not webui.errors


def test_two_registrants_of_lora_the_last_one_wins_and_the_alias_stays_with_the_built_in(tmp_path):
    """Seen on a running 1.10.1: registering in ``before_ui`` is lost, in ``app_started`` it wins."""
    early = probes.handler(tmp_path, "early", "extra_networks.register_extra_network(Handler('lora'))")
    with WebUI("1.10", tmp_path, extensions=[early]) as webui:
        webui.start()
        assert type(webui.registry["lora"]).__name__ == "ExtraNetworkLora"
        assert webui.module("extra_networks").extra_network_aliases["lyco"] is webui.registry["lora"]
    with WebUI("1.5", tmp_path / "15", extensions=[early]) as webui:
        webui.start()
        assert type(webui.registry["lora"]).__name__ == "Handler"
