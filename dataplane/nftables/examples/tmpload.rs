//! tmp
use dataplane_nftables::{socket::*, wire::*};
use std::time::Instant;
fn main() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for monitor in [false, true] {
        for _ in 0..3 {
            let mut link = Link::open().unwrap();
            let m = monitor.then(|| Monitor::open(&[link.port()]).unwrap());
            let t = Instant::now();
            let mut b = Batch::new(Family::Inet);
            b.table(&Table::new("t"));
            b.set(&Set::new("t", "m", Datatype::Ipv4).to(SetData::value(Datatype::Classid)).sized(300_000));
            b.elements(&SetRef::exact("t", "m"), (0..250_000u32).map(|n| Element::value(Value::ipv4((0x0a00_0000 + n).into())).to(Value::host32(n % 1000))));
            let e = t.elapsed();
            let t = Instant::now();
            let c = link.transact(&mut b).unwrap();
            let k = t.elapsed();
            let t = Instant::now();
            let n = link.elements(Family::Inet, "t", "m", Keys::Exact).unwrap().len();
            println!("monitor {monitor} encode {e:?} transact {k:?} {} bytes {} messages; dump {n} {:?}", c.bytes, c.messages, t.elapsed());
            let t = Instant::now();
            let mut b = Batch::new(Family::Inet);
            b.elements(&SetRef::exact("t", "m"), [Element::value(Value::ipv4(1.into())).to(Value::host32(1))]);
            link.transact(&mut b).unwrap();
            println!("one {:?}", t.elapsed());
            let mut b = Batch::new(Family::Inet);
            b.remove_table("t");
            link.transact(&mut b).unwrap();
            drop(m);
        }
    }
}
