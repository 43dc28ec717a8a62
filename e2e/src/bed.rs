//! Namespaces to test in, and the distribution's tools as neighbours and as the second opinion.

use dataplane_netlink::links::{self, OperState};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink, routes};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Fails clearly where the tests cannot do their work.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and programs the kernel in them: it has to run as root"
    );
}

/// A new network namespace that vanishes with its handle.
pub fn namespace() -> NetworkNamespace {
    require_root();
    let namespace = NetworkNamespace::anonymous().expect("make a network namespace");
    namespace
        .run(|| ip("link set lo up"))
        .expect("enter the namespace");
    namespace
}

/// Runs something inside a namespace.
pub fn within<T: Send>(namespace: &NetworkNamespace, work: impl FnOnce() -> T + Send) -> T {
    namespace.run(work).expect("the work inside the namespace failed")
}

/// Runs a tool in the calling thread's namespace and returns what it prints.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|e| panic!("the tests need {program} (iproute2, nftables, conntrack): {e}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {complaint}",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) -> String {
    tool("ip", &arguments.split_whitespace().collect::<Vec<_>>())
}

/// Runs `nft` with a text of commands in the calling thread's namespace, and says what it complains about.
pub fn try_nft(commands: &str) -> Result<String, String> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tests need nft (package nftables)");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(commands.as_bytes())
        .expect("write to nft");
    let output = child.wait_with_output().expect("wait for nft");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Runs `nft` with a text of commands in the calling thread's namespace.
pub fn nft(commands: &str) -> String {
    try_nft(commands).unwrap_or_else(|complaint| panic!("nft refused\n{commands}\n{complaint}"))
}

/// What `nft` lists in the calling thread's namespace, without counters, in an order that does not depend on the
/// kernel's hashes.
pub fn ruleset() -> String {
    let listed = tool("nft", &["-s", "list", "ruleset"]);
    let mut out = String::new();
    let mut rest = listed.as_str();
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (elements, behind) = after.split_once('}').expect("a list of elements ends");
        let mut sorted: Vec<String> = elements
            .split(',')
            .map(|e| e.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        sorted.sort();
        out.push_str(&format!("{before}elements = {{ {} }}", sorted.join(", ")));
        rest = behind;
    }
    out + rest
}

/// Our part of [`ruleset`].
pub fn our_table() -> String {
    let all = ruleset();
    let ours = all.split_once("table inet manx {").map_or("", |(_, ours)| ours);
    ours.split_once("\n}").map_or(ours, |(ours, _)| ours).to_string()
}

/// Our part of [`ruleset`], object by object in the order of their names, so that the order in which they were made
/// makes no difference.
pub fn our_objects() -> Vec<String> {
    let table = our_table();
    // The comment stands on a line of its own, before the first object.
    let (comment, rest): (Vec<&str>, Vec<&str>) = table.lines().partition(|l| l.starts_with("\tcomment "));
    let rest = rest.join("\n");
    let mut objects: Vec<String> = rest.split("\n\t}").map(|o| o.trim().to_string()).collect();
    objects.extend(comment.into_iter().map(str::to_string));
    objects.sort();
    objects
}

/// Looks again and again until something is so.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Binds a socket in a namespace as soon as nobody has its address.
///
/// What a test has closed is in use for a moment longer while another test starts a program: that begins as a copy of this
/// process, with everything that is open here, until it is the program.
pub fn bound<S: Send>(namespace: &NetworkNamespace, bind: impl Fn() -> io::Result<S> + Sync) -> S {
    wait_for(
        "an address to bind to",
        Duration::from_secs(60),
        || match within(namespace, &bind) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            done => Some(done.expect("an address to bind to")),
        },
    )
}

/// Waits until an interface of a namespace, both of whose ends were set up, carries packets, and packets to these addresses
/// are taken in. Until the kernel has noticed, it drops what is sent.
pub fn until_it_carries(namespace: &NetworkNamespace, interface: &str, addresses: &[IpAddr]) {
    let name = InterfaceName::new(interface).expect("an interface's name");
    wait_for("an interface that carries", Duration::from_secs(60), || {
        within(namespace, || {
            let mut netlink = Rtnetlink::open().expect("open rtnetlink");
            let link = links::find(&mut netlink, &name).expect("ask for the interface");
            let is_local =
                |address: &IpAddr| routes::is_local(&mut netlink, *address).expect("ask for the way");
            let carries = link.is_some_and(|link| link.oper_state == OperState::Up);
            (carries && addresses.iter().all(is_local)).then_some(())
        })
    });
}
