//! Members as the kernel can hold them.

use ipnet::IpNet;

use crate::ops::Member;

/// Returns the members of the kernel that together are this member. A set of nets cannot hold the net of all addresses, so
/// its two halves stand for it; a set never holds host bits.
#[must_use]
pub fn kernel_forms(member: &Member) -> [Option<Member>; 2] {
    match *member {
        Member::Ip(_) | Member::IpPort { .. } => [Some(member.clone()), None],
        Member::Net(net) => halves(net).map(|half| half.map(Member::Net)),
        Member::NetPort { net, protocol, port } => {
            halves(net).map(|half| half.map(|net| Member::NetPort { net, protocol, port }))
        }
        Member::NetIface { net, ref interface } => halves(net).map(|half| {
            half.map(|net| Member::NetIface {
                net,
                interface: interface.clone(),
            })
        }),
    }
}

fn halves(net: IpNet) -> [Option<IpNet>; 2] {
    let net = net.trunc();
    if net.prefix_len() > 0 {
        return [Some(net), None];
    }
    let mut halves = net.subnets(1).into_iter().flatten();
    [halves.next(), halves.next()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_two_halves() {
        let net = |text: &str| Member::Net(text.parse().unwrap());
        let forms = |text| kernel_forms(&net(text)).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(forms("10.1.2.3/8"), [net("10.0.0.0/8")]);
        assert_eq!(forms("0.0.0.0/0"), [net("0.0.0.0/1"), net("128.0.0.0/1")]);
        assert_eq!(forms("::/0"), [net("::/1"), net("8000::/1")]);
    }
}
