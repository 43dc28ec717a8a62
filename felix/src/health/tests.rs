//! The state of reporters over time, without a clock, and the page that shows it.

use super::page::render;
use super::*;
use crate::http::Pages;
use proptest::prelude::*;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

const LIMIT: Duration = Duration::from_secs(30);

fn standing(health: &HealthAggregator, name: &str, probe: Probe, now: Instant) -> Standing {
    health
        .states(now)
        .into_iter()
        .find(|state| state.name == name)
        .unwrap()
        .standing(probe)
}

#[test]
fn an_agent_without_loops_is_live_and_not_ready() {
    let health = HealthAggregator::new(&[]);
    let now = Instant::now();
    assert!(health.passes(Probe::Liveness, now));
    assert!(!health.passes(Probe::Readiness, now));
    health
        .register("liveness-only", Counts::Liveness, LIMIT, now)
        .report_at(Report::ready(), now);
    assert!(
        !health.passes(Probe::Readiness, now),
        "nothing that counts for readiness has spoken"
    );
}

#[test]
fn a_new_loop_is_live_for_as_long_as_its_limit() {
    let health = HealthAggregator::new(&[]);
    let start = Instant::now();
    health.register("a", Counts::Both, LIMIT, start);
    assert!(health.passes(Probe::Liveness, start + LIMIT));
    assert!(!health.passes(Probe::Readiness, start));
    let late = start + LIMIT + seconds(1);
    let expected = Standing::Fails {
        trouble: Trouble::NeverReported,
        since: LIMIT + seconds(1),
    };
    assert_eq!(standing(&health, "a", Probe::Liveness, late), expected);
    assert!(!health.passes(Probe::Liveness, late));
}

#[test]
fn a_silent_loop_is_stuck_and_comes_back() {
    let health = HealthAggregator::new(&[]);
    let start = Instant::now();
    let loop_a = health.register("a", Counts::Both, LIMIT, start);
    let loop_b = health.register("b", Counts::Both, LIMIT, start);
    loop_a.report_at(Report::ready(), start + seconds(10));
    for moment in [10, 20, 30, 40] {
        loop_b.report_at(Report::ready(), start + seconds(moment));
    }
    assert!(
        health.passes(Probe::Liveness, start + seconds(40))
            && health.passes(Probe::Readiness, start + seconds(40))
    );
    let later = start + seconds(41);
    let stuck = Standing::Fails {
        trouble: Trouble::Stuck,
        since: seconds(31),
    };
    assert_eq!(standing(&health, "a", Probe::Liveness, later), stuck);
    assert_eq!(standing(&health, "a", Probe::Readiness, later), stuck);
    assert_eq!(standing(&health, "b", Probe::Liveness, later), Standing::Passes);
    assert!(!health.passes(Probe::Liveness, later) && !health.passes(Probe::Readiness, later));
    loop_a.report_at(Report::ready(), later);
    assert!(health.passes(Probe::Liveness, later) && health.passes(Probe::Readiness, later));
}

#[test]
fn what_a_loop_says_of_itself_counts_from_when_it_first_said_so() {
    let health = HealthAggregator::new(&[]);
    let start = Instant::now();
    let reporter = health.register("a", Counts::Both, LIMIT, start);
    reporter.report_at(Report::ready(), start);
    reporter.report_at(Report::failed("disk full"), start + seconds(5));
    reporter.report_at(Report::failed("disk full"), start + seconds(15));
    let reported = |since| Standing::Fails {
        trouble: Trouble::Reported,
        since: seconds(since),
    };
    assert_eq!(
        standing(&health, "a", Probe::Liveness, start + seconds(20)),
        reported(15)
    );
    reporter.report_at(Report::not_ready("resync"), start + seconds(21));
    assert_eq!(
        standing(&health, "a", Probe::Liveness, start + seconds(22)),
        Standing::Passes
    );
    assert_eq!(
        standing(&health, "a", Probe::Readiness, start + seconds(22)),
        reported(17)
    );
    reporter.report_at(Report::ready(), start + seconds(23));
    reporter.report_at(Report::not_ready("resync"), start + seconds(24));
    assert_eq!(
        standing(&health, "a", Probe::Readiness, start + seconds(25)),
        reported(1)
    );
}

#[test]
fn each_loop_counts_for_what_it_said() {
    let health = HealthAggregator::new(&[]);
    let now = Instant::now();
    health
        .register("live", Counts::Liveness, LIMIT, now)
        .report_at(Report::not_ready("never will be"), now);
    let ready = health.register("ready", Counts::Readiness, LIMIT, now);
    ready.report_at(
        Report {
            live: false,
            ready: true,
            detail: String::new(),
        },
        now,
    );
    assert!(health.passes(Probe::Liveness, now) && health.passes(Probe::Readiness, now));
    assert_eq!(
        standing(&health, "live", Probe::Readiness, now),
        Standing::NotCounted
    );
    assert_eq!(
        standing(&health, "ready", Probe::Liveness, now),
        Standing::NotCounted
    );
    let later = now + LIMIT + seconds(1);
    ready.report_at(Report::ready(), later);
    assert!(!health.passes(Probe::Liveness, later) && health.passes(Probe::Readiness, later));
}

#[test]
fn limits_may_be_overridden_and_absent() {
    let health = HealthAggregator::new(&[("SLOW".into(), seconds(300)), ("typo".into(), seconds(1))]);
    let start = Instant::now();
    health
        .register("slow", Counts::Both, LIMIT, start)
        .report_at(Report::ready(), start);
    health
        .register("patient", Counts::Both, Duration::ZERO, start)
        .report_at(Report::ready(), start);
    assert!(health.passes(Probe::Liveness, start + seconds(300)));
    assert!(!health.passes(Probe::Liveness, start + seconds(301)));
    assert_eq!(
        standing(&health, "patient", Probe::Liveness, start + seconds(1_000_000)),
        Standing::Passes
    );
    assert_eq!(health.unused_overrides(), ["typo"]);
}

#[test]
fn loops_end_and_begin_anew() {
    let health = HealthAggregator::new(&[]);
    let now = Instant::now();
    let reporter = health.register("a", Counts::Both, LIMIT, now);
    reporter.report_at(Report::ready(), now);
    health.register("a", Counts::Both, LIMIT, now);
    assert!(
        !health.passes(Probe::Readiness, now),
        "a new loop is not ready because an old one was"
    );
    health.remove("a");
    reporter.report_at(Report::ready(), now);
    assert_eq!(health.states(now), []);
    assert_eq!(reporter.name(), "a");
}

#[test]
fn a_clock_that_went_back_harms_nobody() {
    let health = HealthAggregator::new(&[]);
    let now = Instant::now() + seconds(100);
    health
        .register("a", Counts::Both, LIMIT, now)
        .report_at(Report::ready(), now);
    assert!(health.passes(Probe::Readiness, now - seconds(50)));
}

fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn the_page_names_the_stuck_loop_and_since_when() {
    let health = HealthAggregator::new(&[]);
    let start = Instant::now();
    health
        .register("calculation", Counts::Both, LIMIT, start)
        .report_at(Report::ready(), start + seconds(100));
    let dataplane = health.register("dataplane", Counts::Both, seconds(90), start);
    dataplane.report_at(Report::ready().with_detail("7 routes"), start);
    let page = render(
        &health.states(start + seconds(100)),
        Probe::Liveness,
        wall(1_709_210_096),
    );
    assert_eq!(page.status, 503);
    assert_eq!(
        page.body,
        "not live\n\
         dataplane is stuck since 2024-02-29T12:33:16Z: no report for 100.0s, limit 90.0s: 7 routes\n\
         \n\
         LOOP         LIVENESS          READINESS          LAST REPORT  LIMIT  DETAIL\n\
         calculation  live              ready              0.0s ago     30.0s\n\
         dataplane    not live (stuck)  not ready (stuck)  100.0s ago   90.0s  7 routes\n"
    );
}

#[test]
fn the_page_tells_who_is_not_ready_and_why() {
    let health = HealthAggregator::new(&[]);
    let start = Instant::now();
    let reporter = health.register("dataplane", Counts::Both, LIMIT, start);
    health.register("watcher", Counts::Readiness, Duration::ZERO, start);
    let now = start + seconds(4);
    reporter.report_at(Report::not_ready("waiting for\nthe datastore"), now);
    let ready = render(&health.states(now), Probe::Readiness, wall(1000));
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("not ready\n"), "{}", ready.body);
    assert!(ready.body.contains(
        "dataplane is not ready since 1970-01-01T00:16:36Z, for 4.0s: waiting for the datastore\n"
    ));
    assert!(
        ready
            .body
            .contains("watcher has not reported since it began at 1970-01-01T00:16:36Z, 4.0s ago\n")
    );
    let live = render(&health.states(now), Probe::Liveness, wall(1000));
    assert_eq!(
        (live.status.as_u16(), live.body.lines().next()),
        (200, Some("live"))
    );
    assert!(
        live.body
            .lines()
            .any(|line| line.starts_with("watcher") && line.contains(" - ") && line.contains("never"))
    );
}

#[test]
fn there_are_two_pages() {
    let pages = HealthPages::new(HealthAggregator::new(&[]));
    assert_eq!(
        pages.page("/liveness").map(|page| page.status.as_u16()),
        Some(200)
    );
    assert_eq!(
        pages.page("/readiness").map(|page| page.status.as_u16()),
        Some(503)
    );
    for path in ["/", "/metrics", "/liveness/", "/LIVENESS", ""] {
        assert_eq!(pages.page(path), None, "{path}");
    }
}

proptest! {
    /// Against a plain reading of the rules: live when no counted loop is silent for too long or says it has failed.
    #[test]
    fn liveness_is_what_the_last_reports_say(
        steps in proptest::collection::vec((0usize..3, 0u64..50, any::<bool>(), any::<bool>()), 0..40),
        wait in 0u64..80,
    ) {
        let health = HealthAggregator::new(&[]);
        let start = Instant::now();
        let counts = [Counts::Both, Counts::Liveness, Counts::Readiness];
        let reporters: Vec<Reporter> = counts.iter().enumerate()
            .map(|(at, counts)| health.register(&at.to_string(), *counts, LIMIT, start)).collect();
        let mut last = [(0u64, true, false); 3];
        let mut now = 0;
        for (which, pause, live, ready) in steps {
            now += pause;
            reporters[which].report_at(Report { live, ready, detail: String::new() }, start + seconds(now));
            last[which] = (now, live, ready);
        }
        now += wait;
        let fresh = |at: usize| now - last[at].0 <= LIMIT.as_secs();
        let live = [0, 1].iter().all(|at| fresh(*at) && last[*at].1);
        let ready = [0, 2].iter().all(|at| fresh(*at) && last[*at].2);
        prop_assert_eq!(health.passes(Probe::Liveness, start + seconds(now)), live);
        prop_assert_eq!(health.passes(Probe::Readiness, start + seconds(now)), ready);
    }
}
