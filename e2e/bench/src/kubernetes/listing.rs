//! What the API server itself needs for what every agent reads: a bound of everything else.

use super::world::World;
use crate::figure::{Figure, duration};
use crate::timing::Samples;
use std::time::Instant;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON: &str = "application/json";
/// How often each is read.
const TIMES: usize = 5;

/// Measures.
///
/// # Errors
/// The API server refuses.
pub(super) fn measure(world: &World) -> anyhow::Result<Vec<Figure>> {
    let policies = "/apis/networking.k8s.io/v1/networkpolicies";
    let blocks = format!("{}/ipamblocks", super::objects::OURS);
    let lists = [
        ("pods", "/api/v1/pods", PROTOBUF),
        ("pods", "/api/v1/pods", JSON),
        ("policies", policies, PROTOBUF),
        ("policies", policies, JSON),
        ("blocks of addresses", &blocks, JSON),
    ];
    let mut figures = Vec::new();
    for (what, path, form) in lists {
        let (mut samples, mut bytes) = (Samples::default(), 0);
        for _ in 0..TIMES {
            let begun = Instant::now();
            let answer = world.server.administrator.read(path, form)?;
            samples.add(begun.elapsed());
            anyhow::ensure!(answer.status == 200, "{path}: {}", answer.status);
            bytes = answer.bytes.len();
        }
        let form = if form == JSON { "JSON" } else { "protobuf" };
        figures.push(Figure::beside(
            format!("the API server's list of all {what} as {form}, read whole"),
            duration(samples.median()),
            format!(
                "{:.1} MB; median of {TIMES}, least {}; nothing is decoded; the reader shares the processors",
                bytes as f64 / 1e6,
                duration(samples.least())
            ),
        ));
    }
    Ok(figures)
}
