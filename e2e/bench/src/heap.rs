//! Counts the heap that a state leaves. A program of its own, because counting every allocation takes time.

use cap::Cap;
use e2e_bench::realm::Way;
use e2e_bench::{bed, nodes, snapshot};
use std::alloc::System;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    bed::enter_new_namespace()?;
    let allocated = || HEAP.allocated();
    let heap = match words.as_slice() {
        ["snapshot"] => serde_json::to_string(&snapshot::count_heap(allocated)?)?,
        ["nodes", "plain"] => serde_json::to_string(&nodes::count_heap(Way::Plain, allocated)?)?,
        ["nodes", "vxlan"] => serde_json::to_string(&nodes::count_heap(Way::Vxlan, allocated)?)?,
        _ => anyhow::bail!("one of: snapshot; nodes plain; nodes vxlan"),
    };
    println!("{heap}");
    Ok(())
}
