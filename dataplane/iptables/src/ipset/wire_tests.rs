//! Bytes as the ipset program writes them, and what comes back.

use dataplane_netlink::attributes;
use dataplane_netlink::socket::Message;

use super::super::read::*;
use super::*;

/// Bytes of the nfnetlink header.
const HEADER: usize = 4;
use proptest::prelude::*;

fn only(operation: &SetOp) -> Request {
    let mut out = Vec::new();
    requests(&mut out, 0, operation, Birth::default()).unwrap();
    assert_eq!(out.len(), 1);
    out.remove(0).request
}

#[test]
fn a_member_has_the_bytes_of_the_ipset_program() {
    // ipset add a-hash:net,port 10.1.0.0/16,udp:53, as ipset 7.17 sends it, but for the list around the member.
    let member = Member::NetPort {
        net: "10.1.0.0/16".parse().unwrap(),
        protocol: Protocol::UDP,
        port: 53,
    };
    let mut bytes = Vec::new();
    put_member(&mut bytes, &member);
    let expected = b"\x0c\x00\x01\x80\x08\x00\x01\x40\x0a\x01\x00\x00\x05\x00\x03\x00\x10\x00\x00\x00\x06\x00\x04\x40\x00\x35\x00\x00\x05\x00\x07\x00\x11\x00\x00\x00";
    assert_eq!(bytes, expected);
}

#[test]
fn a_list_as_the_kernel_writes_it_is_read() {
    let list = b"\x02\x00\x00\x00\x05\x00\x01\x00\x07\x00\x00\x00\x06\x00\x02\x00a\x00\x00\x00\x12\x00\x03\x00hash:net,port\x00\x00\x00\x05\x00\x05\x00\x02\x00\x00\x00\x05\x00\x04\x00\x08\x00\x00\x00\x2c\x00\x07\x80\x08\x00\x12\x40\x00\x00\x04\x00\x08\x00\x13\x40\x00\x01\x00\x00\x08\x00\x19\x40\x00\x00\x00\x03\x08\x00\x1a\x40\x00\x00\x02\x28\x08\x00\x18\x40\x00\x00\x00\x01\x2c\x00\x08\x80\x28\x00\x07\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x0a\x00\x00\x00\x06\x00\x04\x40\x00\x50\x00\x00\x05\x00\x03\x00\x08\x00\x00\x00\x05\x00\x07\x00\x06\x00\x00\x00";
    let message = Message {
        message_type: 0x0607,
        flags: 2,
        sequence: 1,
        body: list,
    };
    let set = read_set(message, &|_| true).unwrap();
    let header = SetHeader {
        name: "a".into(),
        kind: Some(SetKind::HashNetPort),
        family: Some(Family::Inet),
        max_elements: 65_536,
        elements: 1,
        references: 3,
        memory: 0x228,
        with_timeout: false,
        is_plain: true,
    };
    assert_eq!(set.header, header);
    let member = Member::NetPort {
        net: "10.0.0.0/8".parse().unwrap(),
        protocol: Protocol::TCP,
        port: 80,
    };
    assert_eq!((set.members, set.strange), (vec![member], 0));
    assert_eq!(read_set(message, &|name| name != "a"), None);
}

#[test]
fn names_are_checked_before_anything_is_sent() {
    for name in [String::new(), "x".repeat(32), "a\0b".into()] {
        let mut out = Vec::new();
        let outcome = requests(&mut out, 0, &SetOp::Destroy(name.clone()), Birth::default());
        assert!(matches!(outcome, Err(IpsetError::Name(refused)) if refused == name));
    }
    let request = only(&SetOp::Destroy("x".repeat(31)));
    assert_eq!(request.message_type, 0x0603);
}

#[test]
fn many_members_are_many_messages_and_no_member_lacks() {
    let members: Vec<Member> = (0..10_000_u32)
        .map(|number| Member::Ip(std::net::Ipv4Addr::from(number).into()))
        .collect();
    let mut out = Vec::new();
    requests(
        &mut out,
        0,
        &SetOp::Add("s".into(), members.clone()),
        Birth::default(),
    )
    .unwrap();
    let read: Vec<Member> = out
        .iter()
        .flat_map(|sent| {
            assert!(sent.request.body.len() < 2 * MESSAGE_LIMIT);
            let list = attributes::find(&sent.request.body[HEADER..], attribute::MEMBERS).unwrap();
            attributes::walk(list).filter_map(|(_, member)| read_member(member))
        })
        .collect();
    assert_eq!(read, members);
}

fn any_member() -> impl Strategy<Value = Member> {
    let net = |address: IpAddr, prefix: u8| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, prefix % (bits + 1)).unwrap().trunc()
    };
    (any::<IpAddr>(), any::<u8>(), any::<u8>(), any::<u16>(), 0..5).prop_map(
        move |(address, prefix, protocol, port, kind)| {
            let (net, protocol) = (net(address, prefix), Protocol::from_number(protocol));
            match kind {
                0 => Member::Ip(address),
                1 => Member::Net(net),
                2 => Member::IpPort {
                    address,
                    protocol,
                    port,
                },
                3 => Member::NetPort { net, protocol, port },
                _ => Member::NetIface {
                    net,
                    interface: format!("cali{port}"),
                },
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(member in any_member()) {
        let mut bytes = Vec::new();
        put_member(&mut bytes, &member);
        prop_assert_eq!(read_member(&bytes), Some(member));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message_type in [0x0607, 0x060d, 2] {
            let message = Message { message_type, flags: 0, sequence: 0, body: &bytes };
            let _ = read_set(message, &|_| true);
            let _ = read_type(message);
            let _ = answer(message);
        }
        let _ = read_member(&bytes);
    }
}
