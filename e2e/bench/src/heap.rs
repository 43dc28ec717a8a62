//! Counts the heap that a snapshot leaves. A program of its own, because counting every allocation takes time.

use cap::Cap;
use std::alloc::System;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

fn main() -> anyhow::Result<()> {
    e2e_bench::bed::enter_new_namespace()?;
    let heap = e2e_bench::snapshot::count_heap(|| HEAP.allocated())?;
    println!("{}", serde_json::to_string(&heap)?);
    Ok(())
}
