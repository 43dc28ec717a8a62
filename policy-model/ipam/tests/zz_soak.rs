mod harness;
use harness::*;
use policy_model_ipam::engine::Request;
use policy_model_ipam::memory::MemoryStore;
#[test]
fn speed() {
    let mut store = MemoryStore::with([pool("p", "10.0.0.0/16", 26, |_| ()), config(false, 64)]);
    let t = std::time::Instant::now();
    for n in 0..10_000 {
        run(
            &mut store,
            Request::AutoAssign(auto(&format!("n{}", n % 200), &format!("h{n}"), 1, 0)),
        )
        .unwrap();
    }
    eprintln!("10000 pods: {:?}", t.elapsed());
}
