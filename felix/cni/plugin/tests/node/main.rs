//! The plugin as a runtime starts it, against the real felix on a node of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod bed;
mod flows;
mod host_ports;

use bed::{Node, Sandbox, addresses, end, wait_for};
use dataplane_netlink::{InterfacePrefixes, host_interface_name};
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn a_pod_comes_is_checked_and_goes() {
    let node = Node::new();
    let sandbox = Sandbox::new("c1");
    let newest = || json!({"cniVersion": "1.1.0"});
    // Nobody there yet.
    assert_eq!(
        node.call(
            "STATUS",
            &sandbox,
            "web",
            json!({"cniVersion": "1.1.0", "manx_patience_seconds": 0})
        )
        .code(),
        50
    );
    let versions = node.call("VERSION", &sandbox, "", json!({})).success();
    assert_eq!(versions["cniVersion"], "1.0.0");
    assert_eq!(versions["supportedVersions"].as_array().unwrap().len(), 7);
    assert!(!node.path("net.d").exists());

    let _felix = node.start_ready("log");
    // A ready node has the configuration, and a runtime that finds it calls the plugin.
    let written = wait_for("the configuration", || {
        std::fs::read_to_string(node.path("net.d/10-calico.conflist")).ok()
    });
    assert!(written.contains("node-1"));

    node.announce("web");
    let result = node.add(&sandbox, "web");
    assert_eq!(result["cniVersion"], "1.0.0");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], sandbox.path());
    let host = result["interfaces"][0]["name"].as_str().unwrap();
    assert!(result["interfaces"][0].get("sandbox").is_none() && host.starts_with("cali"));
    let given = addresses(&result);
    assert_eq!(given.len(), 2);
    for address in &given {
        assert!(
            sandbox.has_address(&address.to_string()),
            "{}",
            sandbox.ip("addr").1
        );
    }
    assert!(
        node.ip("route show")
            .contains(&format!("{} dev {host}", given[0]))
    );
    let (_, link) = sandbox.ip("-o link show eth0");
    assert!(
        link.contains(result["interfaces"][1]["mac"].as_str().unwrap()),
        "{link}"
    );
    node.until_held("c1", 2);

    // The same again is the same, in every form.
    assert_eq!(node.add(&sandbox, "web"), result);
    let first_form = node
        .call("ADD", &sandbox, "web", json!({"cniVersion": "0.2.0"}))
        .success();
    assert_eq!(first_form["ip4"]["ip"], format!("{}/32", given[0]));
    let newest_form = node.call("ADD", &sandbox, "web", newest()).success();
    assert_eq!(newest_form["interfaces"][1]["mtu"], 1500);

    let check = || node.call("CHECK", &sandbox, "web", json!({"prevResult": result}));
    assert!(check().is_success);
    let other = json!({"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/32"}]}});
    assert_eq!(node.call("CHECK", &sandbox, "web", other).code(), 100);
    assert!(sandbox.ip(&format!("addr del {}/32 dev eth0", given[0])).0);
    let said = check();
    assert_eq!(said.code(), 100);
    assert!(
        said.document["msg"]
            .as_str()
            .unwrap()
            .contains(&given[0].to_string())
    );

    for _ in 0..2 {
        assert!(node.call("DEL", &sandbox, "web", json!({})).success().is_null());
        // Nothing passes any more; the interface itself goes a little later.
        let (is_there, link) = sandbox.ip("-o link show eth0");
        assert!(!is_there || !link.contains("LOWER_UP"), "{link}");
        wait_for("the interface to go", || {
            (!sandbox.ip("link show eth0").0).then_some(())
        });
        node.until_held("c1", 0);
    }
    assert_eq!(check().code(), 3);
}

#[test]
fn sandboxes_that_are_gone_are_removed_and_collected() {
    let node = Node::new();
    let _felix = node.start_ready("log");
    let sandboxes: Vec<Sandbox> = ["a", "b", "c"].into_iter().map(Sandbox::new).collect();
    for sandbox in &sandboxes {
        node.announce(&sandbox.container);
        node.add(sandbox, &sandbox.container);
    }
    // Each is written down a moment after it was given.
    for sandbox in &sandboxes {
        node.until_held(&format!(".{}\"", sandbox.container), 2);
    }
    let mut sandboxes = sandboxes.into_iter();
    let (a, b, _c) = (
        sandboxes.next().unwrap(),
        sandboxes.next().unwrap(),
        sandboxes.next().unwrap(),
    );
    // Its namespace goes with its last handle.
    let gone = a.container.clone();
    drop(a);
    let again = Sandbox::new(&gone);
    assert!(node.call("DEL", &again, "a", json!({})).is_success);
    node.until_held(".a\"", 0);

    let valid = |name: &str| {
        json!({"cniVersion": "1.1.0", "name": name,
            "cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}]})
    };
    // Another network's collection is none of this one's.
    node.call("GC", &b, "", valid("other")).success();
    assert_eq!(node.handles().len(), 4);
    node.call("GC", &b, "", valid("k8s-pod-network")).success();
    node.until_held(".c\"", 0);
    assert_eq!((node.handles().len(), node.held_by(".b\"")), (2, 2));
    assert!(b.ip("link show eth0").0);
}

#[test]
fn what_is_asked_while_felix_is_away_is_done_when_it_is_back() {
    let node = Node::new();
    let felix = node.start_ready("first");
    let (stays, leaves) = (Sandbox::new("stays"), Sandbox::new("leaves"));
    for sandbox in [&stays, &leaves] {
        node.announce(&sandbox.container);
        node.add(sandbox, &sandbox.container);
        node.until_held(&sandbox.container, 2);
    }
    felix.kill();
    let impatient = || json!({"manx_patience_seconds": 0.2});
    for _ in 0..2 {
        assert!(node.call("DEL", &leaves, "leaves", impatient()).is_success);
    }
    assert_eq!(
        node.call("ADD", &Sandbox::new("new"), "stays", impatient())
            .code(),
        11
    );
    // Nobody else gets the address before the old interface is gone.
    assert_eq!((node.held_by("leaves"), node.held_by("stays")), (2, 2));
    let _felix = node.start("second");
    wait_for("the removal", || (node.held_by("leaves") == 0).then_some(()));
    wait_for("the note to go", || {
        let mut notes = std::fs::read_dir(node.path("run/cni.sock.deletions")).unwrap();
        notes.next().is_none().then_some(())
    });
    wait_for("the interface to go", || {
        (!leaves.ip("link show eth0").0).then_some(())
    });
    assert!(stays.ip("link show eth0").0 && node.held_by("stays") == 2);
}

#[test]
fn an_attachment_survives_the_end_of_felix_in_its_midst() {
    let node = Node::new();
    let felix = node.start_ready("first");
    let sandbox = Sandbox::new("c1");
    // Its pod is not known yet, so felix waits.
    let running = node.begin("ADD", &sandbox, "late", json!({}));
    felix.kill();
    let _felix = node.start("second");
    node.announce("late");
    let result = end(running).success();
    assert!(sandbox.has_address(&addresses(&result)[0].to_string()));
    node.until_held("c1", 2);
    assert_eq!(node.handles().len(), 2);
}

#[test]
fn an_attachment_whose_caller_vanished_is_taken_back() {
    let node = Node::new();
    let felix = node.start_ready("log");
    let sandbox = Sandbox::new("c1");
    let mut running = node.begin("ADD", &sandbox, "late", json!({}));
    // Then its caller dies.
    wait_until_it_waits(running.id());
    running.kill().unwrap();
    running.wait().unwrap();
    felix.wait_until_it_says("the caller did not wait for the answer");
    node.announce("late");
    assert_eq!(node.held_by("c1"), 0);
    assert!(!sandbox.ip("link show eth0").0);
    node.add(&sandbox, "late");
    node.until_held("c1", 2);
}

/// Waits until the plugin has asked felix: it sleeps, with a socket in the sandbox and one to felix.
fn wait_until_it_waits(process: u32) {
    wait_for("the plugin to wait", || {
        let entries = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let sockets = targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        (sockets == 2 && status.contains("State:\tS")).then_some(())
    });
}

#[test]
fn many_at_once_get_an_address_each_and_leave_nothing() {
    let node = Node::new();
    let _felix = node.start_ready("log");
    let sandboxes: Vec<Sandbox> = (0..20).map(|n| Sandbox::new(&format!("c{n}"))).collect();
    for sandbox in &sandboxes {
        node.announce(&sandbox.container);
    }
    let all = |command| {
        let begun: Vec<_> = sandboxes
            .iter()
            .map(|s| node.begin(command, s, &s.container, json!({})))
            .collect();
        begun
            .into_iter()
            .map(|child| end(child).success())
            .collect::<Vec<_>>()
    };
    let given: Vec<_> = all("ADD").iter().flat_map(addresses).collect();
    assert_eq!(given.len(), 40);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 40);
    all("DEL");
    wait_for("the addresses to be free", || {
        node.handles().is_empty().then_some(())
    });
    wait_for("the interfaces to go", || {
        node.ip("-o link show type veth").is_empty().then_some(())
    });
}

#[test]
fn nothing_of_another_boot_lives() {
    let node = Node::new();
    let felix = node.start_ready("first");
    let sandbox = Sandbox::new("c1");
    node.announce("web");
    node.add(&sandbox, "web");
    node.until_held("c1", 2);
    felix.kill();
    let journal = node.path("state/attachments/attachments.log");
    let text = std::fs::read_to_string(&journal).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()));
    std::fs::write(&journal, text.replace(boot.trim(), "an earlier one")).unwrap();
    let _felix = node.start_ready("second");
    node.until_held("c1", 0);
    assert_eq!(
        node.call("CHECK", &sandbox, "web", json!({"prevResult": {}}))
            .code(),
        3
    );
}

#[test]
fn another_networks_plugin_gets_addresses() {
    let node = Node::new();
    let _felix = node.start_ready("log");
    let sandbox = Sandbox::new("c1");
    let bridge = || json!({"type": "bridge", "ipam": {"type": "manx-ipam", "assign_ipv6": "false", "ipv4_pools": ["v4"]}});
    let result = node.call("ADD", &sandbox, "", bridge()).success();
    assert!(result.get("interfaces").is_none());
    assert_eq!(addresses(&result).len(), 1);
    assert_eq!(node.call("ADD", &sandbox, "", bridge()).success(), result);
    node.until_held("c1", 1);
    assert!(!sandbox.ip("link show eth0").0);
    node.call("CHECK", &sandbox, "", {
        let mut check = bridge();
        check["prevResult"] = result.clone();
        check
    })
    .success();
    node.call("DEL", &sandbox, "", bridge()).success();
    node.until_held("c1", 0);
    let unknown = json!({"type": "bridge", "ipam": {"type": "manx-ipam", "ipv4_pools": ["nowhere"]}});
    assert!(!node.call("ADD", &sandbox, "", unknown).is_success);
}

#[test]
fn ranges_of_the_node_need_no_pool() {
    let node = Node::new();
    let _felix = node.start_ready("log");
    node.announce("web");
    let with = |ipam: serde_json::Value| json!({"ipam": ipam});
    let named = || with(json!({"type": "host-local", "subnet": "10.9.0.0/29"}));
    let sandboxes: Vec<Sandbox> = (0..6).map(|n| Sandbox::new(&format!("c{n}"))).collect();
    for (sandbox, host) in sandboxes.iter().zip(2..7) {
        let container = &sandbox.container;
        node.announce(container);
        let result = node.call("ADD", sandbox, container, named()).success();
        let expected: std::net::IpAddr = format!("10.9.0.{host}").parse().unwrap();
        assert_eq!(addresses(&result), [expected]);
    }
    let full = node.call("ADD", &sandboxes[5], "web", named());
    assert_eq!(full.code(), 50);
    assert!(full.document["msg"].as_str().unwrap().contains("10.9.0.0/29"));
    node.call("DEL", &sandboxes[1], "", named()).success();
    // It is free again once nothing of its holder is left.
    let result = wait_for("an address to be free", || {
        let said = node.call("ADD", &sandboxes[5], "web", named());
        said.is_success.then_some(said.document)
    });
    assert!(sandboxes[5].has_address("10.9.0.3"), "{result}");
    // Nobody says which ranges are the node's own.
    let own = with(json!({"type": "host-local", "subnet": "usePodCidr"}));
    assert_eq!(
        node.call("ADD", &Sandbox::new("x"), "web", own.clone()).code(),
        50
    );
    node.give_ranges(&["10.9.1.0/24", "fd00:9:1::/64"]);
    let sandbox = Sandbox::new("own");
    node.announce("own");
    let result = wait_for("the node's ranges to be known", || {
        let said = node.call("ADD", &sandbox, "own", own.clone());
        said.is_success.then_some(said.document)
    });
    let given: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
    assert_eq!(given, ["10.9.1.2"], "`subnet` names one family");
    let part = with(
        json!({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.9"}]]}),
    );
    assert_eq!(node.call("ADD", &Sandbox::new("x"), "web", part).code(), 2);
    assert_eq!(node.handles(), Vec::<String>::new());
}

#[test]
fn a_namespace_names_the_pool_of_its_pods() {
    let node = Node::new();
    node.give_pool_to_namespace("of-shop", "10.88.0.0/24");
    let _felix = node.start_ready("log");
    node.announce("web");
    let sandbox = Sandbox::new("c1");
    let result = node.add(&sandbox, "web");
    let given: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
    assert_eq!(given.len(), 2, "{result}");
    for (address, pool) in given.iter().zip(["10.88.0.", "fd00:77::"]) {
        assert!(address.starts_with(pool), "{result}");
    }
}

#[test]
fn a_node_whose_disk_was_wiped_finds_its_pods_again() {
    let node = Node::new();
    let felix = node.start_ready("first");
    let sandboxes: Vec<Sandbox> = ["alpha", "beta"].into_iter().map(Sandbox::new).collect();
    let mut given = BTreeSet::new();
    for sandbox in &sandboxes {
        node.announce(&sandbox.container);
        given.extend(addresses(&node.add(sandbox, &sandbox.container)));
        node.until_held(&sandbox.container, 2);
    }
    felix.kill();
    std::fs::remove_dir_all(node.path("state/attachments")).unwrap();
    let _felix = node.start_ready("second");
    for n in 0..20 {
        let sandbox = Sandbox::new(&format!("new-{n}"));
        node.announce(&sandbox.container);
        let new = addresses(&node.add(&sandbox, &sandbox.container));
        assert!(new.iter().all(|address| !given.contains(address)), "{new:?}");
        node.call("DEL", &sandbox, &sandbox.container, json!({}))
            .success();
    }
    for sandbox in &sandboxes {
        assert_eq!(node.held_by(&sandbox.container), 2);
        assert!(sandbox.ip("link show eth0").0);
        node.call("DEL", sandbox, &sandbox.container, json!({})).success();
        wait_for("the interface to go", || {
            (!sandbox.ip("link show eth0").0).then_some(())
        });
    }
    wait_for("the addresses to be free", || {
        node.handles().is_empty().then_some(())
    });
}

#[test]
fn what_was_found_ends_with_its_interface() {
    let node = Node::new();
    let felix = node.start_ready("first");
    let [alpha, beta] = ["alpha", "beta"].map(Sandbox::new);
    for sandbox in [&alpha, &beta] {
        node.announce(&sandbox.container);
        node.add(sandbox, &sandbox.container);
        node.until_held(&sandbox.container, 2);
    }
    felix.kill();
    std::fs::remove_dir_all(node.path("state/attachments")).unwrap();
    let _felix = node.start_ready("second");
    // Without its routes an interface is a pod's all the same.
    let name = host_interface_name(&InterfacePrefixes::default(), "shop", "beta").unwrap();
    node.ip(&format!("link set {name} down"));
    drop(alpha);
    wait_for("the addresses to be free", || {
        (node.held_by("alpha") == 0).then_some(())
    });
    assert_eq!(node.held_by("beta"), 2);
    assert!(beta.ip("link show eth0").0);
}

#[test]
fn loopback_comes_up() {
    let node = Node::new();
    let sandbox = Sandbox::new("c1");
    let loopback = || json!({"type": "loopback", "cniVersion": "0.3.1"});
    let checked = || json!({"type": "loopback", "prevResult": {}});
    assert_eq!(node.call("CHECK", &sandbox, "", checked()).code(), 100);
    let result = node.call("ADD", &sandbox, "", loopback()).success();
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert!(sandbox.ip("-o link show lo").1.contains("UP"));
    assert!(node.call("CHECK", &sandbox, "", checked()).is_success);
    assert!(node.call("DEL", &sandbox, "", loopback()).is_success);
}

/// Prints how long the plugin takes from start to end: one by one, then twenty at once.
#[test]
#[ignore = "prints figures"]
fn figures() {
    let node = Node::new();
    let _felix = node.start_ready("log");
    let timed = |work: &mut dyn FnMut()| {
        let begun = std::time::Instant::now();
        work();
        begun.elapsed().as_secs_f64() * 1e3
    };
    let show = |what: &str, mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        let (median, last) = (all[all.len() / 2], all[all.len() - 1]);
        println!(
            "{what}: median {median:.1} ms, greatest {last:.1} ms of {}",
            all.len()
        );
    };
    let sandboxes: Vec<Sandbox> = (0..60).map(|n| Sandbox::new(&format!("c{n}"))).collect();
    for sandbox in &sandboxes {
        node.announce(&sandbox.container);
    }
    let (single, many) = sandboxes.split_at(40);
    for command in ["ADD", "DEL"] {
        let one = |sandbox: &Sandbox| {
            let call = || {
                drop(
                    node.call(command, sandbox, &sandbox.container, json!({}))
                        .success(),
                )
            };
            timed(&mut { call })
        };
        show(&format!("{command} one by one"), single.iter().map(one).collect());
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = many
                .iter()
                .map(|sandbox| scope.spawn(move || one(sandbox)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        show(&format!("{command} twenty at once"), all);
    }
}
