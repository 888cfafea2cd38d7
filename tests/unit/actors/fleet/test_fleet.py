"""The fleet file, where its devices may go, and the links and classes that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.device.device import Device
from actors.fleet.config import FleetConfig, load_fleet, parse_fleet
from actors.fleet.device_actor import device_class
from actors.fleet.placement import MARK, Beside, Demand, check, demands_of
from actors.network.link import DirectLink, make_link
from slicer.errors import ConfigError, PlacementError

# --- the file --------------------------------------------------------------------------------------------------------


def fleet(*groups: dict[str, Any], **changes: Any) -> FleetConfig:
    return parse_fleet({"groups": [{"name": "cam", "cut": 1, **group} for group in groups or ({},)], **changes})


def test_the_demo_has_eight_devices_at_cuts_0_to_4() -> None:
    demo = load_fleet("demo")
    devices = [device for group in demo.groups for device in demo.devices(group)]
    assert len(devices) == 8
    assert {device.cut for device in devices} == {0, 1, 2, 3, 4}
    assert {device.model for device in devices} == {"digits_vit"}
    assert not any(device.profile.emulated for device in devices)


def test_the_emulated_fleet_says_that_it_is() -> None:
    emulated = load_fleet("emulated")
    assert any(device.profile.emulated for group in emulated.groups for device in emulated.devices(group))


def test_devices_are_named_by_group_and_number_and_inherit_the_fleets_model() -> None:
    mine = fleet({"count": 2}, {"name": "own", "model": "b", "codec": "fp16"}, model="a", seed=7)
    devices = [device for group in mine.groups for device in mine.devices(group)]
    assert [device.name for device in devices] == ["cam-0", "cam-1", "own-0"]
    assert [device.model for device in devices] == ["a", "a", "b"]
    assert [device.codec for device in devices] == ["fp32", "fp32", "fp16"]
    assert {device.seed for device in devices} == {7}
    assert mine.groups[0].cpus == 0.1


def test_a_file_finds_profiles_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "board.yaml").write_text("{name: mine, hypothetical: true, slices_ms: [{mean: 1, std: 0}]}")
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "cam", "cut": 1, "profile": "board.yaml"}]}))
    read = load_fleet(path)
    assert read.devices(read.groups[0])[0].profile.name == "mine"


@pytest.mark.parametrize(
    ("group", "word"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"cut": -1}, "cut"),
        ({"cut": "two"}, "cut"),
        ({"count": 0}, "count"),
        ({"cpus": 0}, "cpus"),
        ({"name": "no spaces"}, "name"),
        ({"codec": "int3"}, "int3"),
        ({"profile": "jetson"}, "jetson"),
        ({"placement": "RANDOM"}, "placement"),
        ({"accelerator": "cuda"}, "set gpus"),
        ({"gpus": 1}, "set accelerator: cuda"),
        ({"device": "fast"}, r"package\.module:Class"),
        ({"link": "pigeon"}, r"package\.module:Class"),
        ({"profile": "slow-board", "torch_threads": 2}, "leave torch_threads out"),
        ({"profile": "slow-board", "accelerator": "cuda", "gpus": 1}, "leave accelerator and gpus out"),
    ],
)
def test_a_group_that_contradicts_itself_is_refused_by_value_and_remedy(group: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        fleet(group)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (None, "mapping with `groups`"),
        ({"groups": []}, "groups is empty"),
        ({}, "groups: missing"),
        ({"groups": [{"name": "a", "cut": 0}, {"name": "a", "cut": 1}]}, "two groups are named 'a'"),
        ({"groups": [{"name": "a", "cut": 0}], "directory": "/"}, "directory: unknown key"),
        ({"groups": [{"name": "a", "cut": 0}], "retry": {"attempts": 0}}, "retry.attempts"),
        ({"groups": [{"name": "a", "cut": 0}], "cache": {"max_bytes": -1}}, "cache.max_bytes"),
    ],
)
def test_a_fleet_that_contradicts_itself_is_refused(data: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_fleet(data)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nowhere\.yaml'.*demo, emulated"):
        load_fleet("nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("groups: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_fleet(broken)


# --- placement -------------------------------------------------------------------------------------------------------


def node(alive: bool = True, name: str = "", **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources, **({"NodeID": name} if name else {})}


def demand(count: int = 1, cpus: float = 0.1, strategy: str = "SPREAD", gpus: float = 0.0) -> Demand:
    return Demand("cam", count, cpus, gpus, strategy)


def test_edge_nodes_are_used_where_there_are_any() -> None:
    assert check([node(CPU=8, server=1), node(CPU=2, edge=1)], [demand(8)]) == "edge"
    assert demand().bundle("edge") == {"CPU": 0.1, "edge": MARK}


def test_a_cluster_of_one_machine_needs_no_edge_node() -> None:
    assert check([node(CPU=2)], [demand(8)]) is None
    assert check([node(CPU=2), node(alive=False, CPU=2, edge=1)], [demand(8)]) is None
    assert demand(gpus=0.5).bundle(None) == {"CPU": 0.1, "GPU": 0.5}


def test_on_several_nodes_without_edge_devices_never_go_to_the_servers_node() -> None:
    with pytest.raises(PlacementError, match=r"none of the 2 nodes is an edge node.*8 devices.*ray start"):
        check([node(CPU=8), node(CPU=8, server=1)], [demand(8)])


def test_one_per_node_says_how_many_nodes_are_missing() -> None:
    nodes = [node(CPU=2, edge=1), node(CPU=2, edge=1), node(CPU=64, server=1)]
    assert check(nodes, [demand(2, strategy="STRICT_SPREAD")]) == "edge"
    with pytest.raises(PlacementError, match=r"5 devices on nodes of their own.*3 more edge nodes.*the 2 of"):
        check(nodes, [demand(5, strategy="STRICT_SPREAD")])


@pytest.mark.parametrize(
    ("nodes", "demands", "word"),
    [
        # 2 edge nodes of 1 CPU hold 2 x 3 devices of 0.3.
        ([node(CPU=1, edge=1)] * 2, [demand(8, cpus=0.3)], r"2 of 8 devices.*CPU 0\.6"),
        # edge: 0.02 is room for two marks.
        ([node(CPU=8, edge=0.02)], [demand(3)], r"1 of 3 devices.*edge 0\.01"),
        ([node(CPU=8, edge=1)], [demand(2, gpus=1)], r"2 of 2 devices.*missing GPU 2 "),
        # What one group takes is not there for the next.
        ([node(CPU=1, edge=1)], [demand(2, cpus=0.4), demand(1, cpus=0.3)], r"1 of 1 devices"),
        # A node without room cannot hold the one device that is its own.
        ([node(CPU=1, edge=1), node(CPU=0.05, edge=1)], [demand(2, strategy="STRICT_SPREAD")], r"1 of 2 devices"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_missing(
    nodes: list[dict[str, Any]], demands: list[Demand], word: str
) -> None:
    with pytest.raises(PlacementError, match=word):
        check(nodes, demands)


def test_ten_tenths_of_a_cpu_are_a_cpu() -> None:
    check([node(CPU=1)], [demand(10)])
    check([node(CPU=1)], [demand(3), demand(7)])  # as floats, 1 - 3 * 0.1 is less than 7 * 0.1


def server(cpus: float, node_id: str = "0", **more: float) -> Beside:
    return Beside("the running application 'cameras'", {"CPU": cpus, **more}, (node_id,))


def test_the_fleet_has_what_the_servers_leave() -> None:
    check([node(CPU=2)], [demand(10)], beside=[server(1)])
    with pytest.raises(PlacementError) as refused:
        check([node(CPU=2)], [demand(11)], beside=[server(1)])
    assert "1 of 11 devices do not fit 1 machines; missing CPU 0.1" in str(refused.value)
    assert "fleet asks for CPU 1.1, the running application 'cameras' CPU 1, the machines have CPU 2" in str(
        refused.value
    )


def test_several_servers_and_their_gpus_count() -> None:
    check([node(CPU=4, GPU=1)], [demand(2, gpus=0.25)], beside=[server(1, GPU=0.5)])
    with pytest.raises(PlacementError, match=r"1 of 2 devices.*missing GPU 0\.25"):
        check([node(CPU=4, GPU=1)], [demand(2, gpus=0.25)], beside=[server(1, GPU=0.5), server(1, GPU=0.25)])


def test_a_server_on_a_node_of_its_own_takes_nothing_from_the_devices() -> None:
    nodes = [node(name="rack", CPU=1, server=1), node(name="board", CPU=1, edge=1)]
    assert check(nodes, [demand(10)], beside=[server(1, "rack", server=0.001)]) == "edge"
    with pytest.raises(PlacementError) as refused:
        check(nodes, [demand(11)], beside=[server(1, "rack", server=0.001)])
    assert "cameras" not in str(refused.value)


def test_a_server_that_fits_nowhere_is_left_to_its_own_start() -> None:
    check([node(CPU=1)], [demand(10)], beside=[server(2), server(0.5, "gone")])


def test_virtual_devices_are_counted_as_devices_and_as_processes() -> None:
    crowd = demands_of(fleet({"count": 500, "virtual": True, "profile": "fast-board"}))[0]
    assert (crowd.count, crowd.devices) == (2, 500)
    with pytest.raises(PlacementError) as refused:
        check([node(CPU=1)], [crowd], beside=[server(0.9)])
    assert "1 of 2 processes, which hold 500 devices, do not fit" in str(refused.value)
    assert "raise its per_actor" in str(refused.value)


# --- own classes -----------------------------------------------------------------------------------------------------


class OwnDevice(Device):
    """For the test below."""


class NoLink:
    """Lacks everything a link has."""


def test_links_are_made_by_name_or_by_class() -> None:
    assert isinstance(make_link("direct", {}), DirectLink)
    with pytest.raises(ConfigError, match="unknown link 'wifi'"):
        make_link("wifi", {})
    with pytest.raises(ConfigError, match="takes no options, but got rate"):
        make_link("direct", {"rate": 1})
    with pytest.raises(ConfigError, match="a link has"):
        make_link(f"{__name__}:NoLink", {})
    with pytest.raises(ConfigError, match="cannot be made"):
        make_link(f"{__name__}:NoLink", {"rate": 1})


def test_an_own_device_class_derives_from_device() -> None:
    assert device_class("native") is Device
    assert device_class(f"{__name__}:OwnDevice") is OwnDevice
    with pytest.raises(ConfigError, match="derive it"):
        device_class(f"{__name__}:NoLink")
    with pytest.raises(ConfigError, match="cannot import"):
        device_class("no_such_module:Class")
