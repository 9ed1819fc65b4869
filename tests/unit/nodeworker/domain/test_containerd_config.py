"""One runtime more in a containerd's configuration, and not a byte of the rest, whatever shape administrators gave it."""

from __future__ import annotations

import tomllib

import pytest

from nodeworker.domain import containerd_config as config
from nodeworker.domain.containerd_config import ConfigError

pytestmark = pytest.mark.timeout(20)

BINARY = "/opt/woodfrog/bin/woodfrog-runtime"

KUBEADM = """\
version = 2
# kubeadm's documentation asks for this
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/pause:3.9"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
"""
SHAPES = {
    "kubeadm": KUBEADM,
    "no end of the last line": KUBEADM.rstrip("\n"),
    "blank lines at the end": KUBEADM + "\n\n\n",
    "a comment at the end": KUBEADM + "# managed by hand",
    "lines that end as on Windows": KUBEADM.replace("\n", "\r\n"),
    "tabs": KUBEADM.replace("  ", "\t"),
    "literal quotes": KUBEADM.replace('"', "'"),
    "nothing at all": "",
    "comments only": "# nothing here yet\n",
    "a version only": "version = 2\n",
    "the first layout": '[plugins.cri]\n  sandbox_image = "p"\n[plugins.cri.containerd.runtimes.runc]\n  runtime_type = "x"\n',
    "the third layout": """\
version = 3
root = '/var/lib/containerd'
[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.runtime']
    enable_selinux = false
    [plugins.'io.containerd.cri.v1.runtime'.containerd]
      default_runtime_name = 'runc'
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes]
        [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
          runtime_type = 'io.containerd.runc.v2'
          [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
            SystemdCgroup = true
""",
    "the fourth layout": "version = 4\n[plugins.'io.containerd.cri.v1.runtime']\n  enable_selinux = true\n",
    "GPU nodes": """\
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "nvidia"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia]
    privileged_without_host_devices = false
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
      BinaryName = "/usr/bin/nvidia-container-runtime"
""",
    "other kinds of runtimes": """\
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
  runtime_type = "io.containerd.runsc.v1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
  runtime_type = "io.containerd.kata.v2"
  snapshotter = "devmapper"
""",
    "dotted keys": """\
version = 2
plugins."io.containerd.grpc.v1.cri".sandbox_image = "p"
plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.runtime_type = "io.containerd.runc.v2"
""",
    "brackets within text": """\
version = 2
imports = [
  "/etc/containerd/conf.d/*.toml",  # [plugins]
]
[plugins."io.containerd.grpc.v1.cri".registry.configs."[2001:db8::1]:5000".auth]
  password = "[plugins.cri]"
[debug]
  level = '''
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cedana]
'''
""",
    "another section last": KUBEADM
    + '\n[metrics]\n  address = "127.0.0.1:1338"\n[timeouts]\n  "io.containerd.timeout.x" = "5s"\n',
    "umlauts": "version = 2\n# Grüße aus dem Rechenzentrum ☃\n",
}
SHAPE = pytest.mark.parametrize("before", SHAPES.values(), ids=SHAPES)


def ours() -> config.Table:
    return config.our_runtime({"runtime_type": config.RUNC_TYPE, "options": {"SystemdCgroup": True}}, BINARY)


@SHAPE
def test_what_was_added_is_cut_out_again_to_the_byte(before: str) -> None:
    after = config.add(before, {"cedana": ours()})
    assert after.startswith(before)
    assert config.cut(after, BINARY) == before


@SHAPE
def test_the_runtime_is_there_and_every_other_setting_stays(before: str) -> None:
    after = tomllib.loads(config.add(before, {"cedana": ours()}))
    known = config.runtimes(after)
    assert known["cedana"] == {
        "runtime_type": "io.containerd.runc.v2",
        "pod_annotations": ["woodfrog.io/*"],
        "container_annotations": ["woodfrog.io/*", "io.kubernetes.pod.terminationGracePeriod"],
        "options": {"SystemdCgroup": True, "BinaryName": BINARY},
    }
    assert config.same_but_for(tomllib.loads(before) | _skeleton(before), after, "cedana")


def _skeleton(before: str) -> config.Table:
    """The tables that now hold ours, empty, where the file had none."""
    parsed = tomllib.loads(before)
    inner = parsed
    for key in ("plugins", config.plugin(config.version(parsed)), "containerd", "runtimes"):
        inner = inner.setdefault(key, {})
    return parsed


@SHAPE
def test_a_text_without_ours_is_returned_as_it_is(before: str) -> None:
    assert config.cut(before, BINARY) == before


@SHAPE
def test_what_others_change_around_ours_is_kept(before: str) -> None:
    added = "\n[proxy_plugins.stargz]\n  type = 'snapshot'\n"
    after = "# by the new administrator\n" + config.add(before, {"cedana": ours()}) + added
    assert config.cut(after, BINARY) == "# by the new administrator\n" + before + added


@SHAPE
def test_ours_is_cut_out_where_its_marks_were_lost(before: str) -> None:
    bare = "".join(
        line for line in config.add(before, {"cedana": ours()}).splitlines(keepends=True) if "woodfrog:" not in line
    )
    after = bare + "# about metrics\n[cgroup]\n  path = ''\n"
    left = config.cut(after, BINARY)
    assert "cedana]" not in left.replace(before, "")
    assert left.endswith("# about metrics\n[cgroup]\n  path = ''\n")
    assert left.startswith(before)


@SHAPE
def test_a_second_time_is_refused_instead_of_doubled(before: str) -> None:
    with pytest.raises(ConfigError, match="already"):
        config.add(config.add(before, {"cedana": ours()}), {"cedana": ours()})


def test_a_runtime_of_somebody_else_is_neither_replaced_nor_cut() -> None:
    theirs = KUBEADM + (
        '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.cedana]\n  runtime_type = "io.containerd.cedana.v1"\n'
    )
    with pytest.raises(ConfigError, match="already"):
        config.add(theirs, {"cedana": ours()})
    assert config.cut(theirs, BINARY) == theirs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\nruntimes = {runc = {}}\n',
            "no table can be added",
        ),
        ("version = 2\nplugins = {}\n", "no table can be added"),
        ("version = 2\n[plugins\n", "not valid TOML"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.add(text, {"cedana": ours()})


@pytest.mark.parametrize("before", ["", "# nothing here yet"])
def test_a_file_that_sets_nothing_is_given_the_layout_of_its_containerd(before: str) -> None:
    after = config.add(before, {"cedana": ours()}, layout=3)
    parsed = tomllib.loads(after)
    assert parsed["version"] == 3
    assert "cedana" in parsed["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]
    assert config.cut(after, BINARY) == before


def test_our_runtime_is_like_the_one_that_pods_have_by_default() -> None:
    dump = tomllib.loads(SHAPES["GPU nodes"])
    name, base = config.default_runtime(dump)
    assert name == "nvidia"
    made = config.our_runtime(base | {"pod_annotations": ["nvidia.com/*"], "sandbox_mode": "podsandbox"}, BINARY)
    assert made["pod_annotations"] == ["nvidia.com/*", "woodfrog.io/*"]
    assert made["options"] == {"BinaryName": BINARY}
    assert "sandbox_mode" not in made


def test_a_default_that_is_not_runcs_kind_is_passed_over() -> None:
    dump = tomllib.loads(
        KUBEADM
        + '[plugins."io.containerd.grpc.v1.cri".containerd]\n  default_runtime_name = "kata"\n'
        + '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]\n  runtime_type = "io.containerd.kata.v2"\n'
    )
    assert config.default_runtime(dump)[0] == "runc"


@pytest.mark.parametrize("name", ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"])
def test_a_cri_that_is_turned_off_is_noticed(name: str) -> None:
    assert config.cri_disabled(tomllib.loads(f'disabled_plugins = ["{name}"]\n'))
    assert not config.cri_disabled(tomllib.loads(KUBEADM))


def test_a_setting_that_would_be_lost_is_noticed() -> None:
    before = tomllib.loads(KUBEADM)
    after = tomllib.loads(config.add(KUBEADM, {"cedana": ours()}))
    config.runtimes(after).pop("runc")
    assert not config.same_but_for(before, after, "cedana")
