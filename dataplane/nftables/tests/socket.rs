//! The socket: refusals, generations, ownership, events, and reading while others write.
//!
//! Each test has a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod support;

use std::os::fd::AsFd;

use dataplane_nftables::socket::{Event, Link, Monitor, TransactError};
use dataplane_nftables::wire::{
    Batch, Chain, Datatype, Expr, Family, Hook, Keys, Notice, Object, Rule, Set, SetData, SetRef, Table,
    TableFlags, priority,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::{classes, commit, in_namespace, layout, nft, refused};

const INET: Family = Family::Inet;

#[test]
fn a_refused_batch_can_be_mended_and_sent_again() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mut batch = Batch::new(INET);
        batch.table(&Table::new("t"));
        batch.chain(&Chain::regular("t", "c"));
        batch.rule(&Rule::new("t", "c", &[Expr::jump("later")]));
        link.transact(&mut batch).unwrap_err();
        let mut batch = Batch::new(INET);
        batch.table(&Table::new("t"));
        link.transact(&mut batch).unwrap();
        batch.chain(&Chain::regular("t", "c"));
        let committed = link.transact(&mut batch).unwrap();
        assert_eq!(committed.messages, 2);
        assert_eq!(link.chains(INET, "t").unwrap().len(), 1);
    });
}

#[test]
fn many_refusals_are_all_told() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mut batch = Batch::new(INET);
        for label in 0..5000 {
            batch.at(label).remove_chain("none", "none");
        }
        let failures = refused(link.transact(&mut batch).unwrap_err());
        assert!(
            failures
                .iter()
                .enumerate()
                .all(|(index, failure)| failure.label == Some(index))
        );
        assert_eq!(failures.len(), 5000);
    });
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let mut batch = Batch::new(INET);
        batch.at(1).table(&Table::new("t"));
        batch
            .at(2)
            .rule(&Rule::new("t", "c", &vec![Expr::counter(); 4000]));
        assert!(matches!(
            link.transact(&mut batch),
            Err(TransactError::TooLong { label: 2 })
        ));
        assert_eq!(link.tables(INET).unwrap(), []);
    });
}

#[test]
fn a_batch_for_another_generation_is_stale() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let generation = link.generation().unwrap().id;
        commit(&mut link, |batch| batch.table(&Table::new("t")));
        assert_eq!(link.generation().unwrap().id, generation + 1);
        let mut batch = Batch::for_generation(INET, generation);
        batch.table(&Table::new("u"));
        assert!(matches!(link.transact(&mut batch), Err(TransactError::Stale)));
        let mut batch = Batch::for_generation(INET, generation + 1);
        batch.table(&Table::new("u"));
        link.transact(&mut batch).unwrap();
        assert_eq!(link.tables(INET).unwrap().len(), 2);
    });
}

/// The running kernel's version, of which two numbers matter.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn an_owned_table_is_closed_to_others_survives_and_is_claimed_again() {
    in_namespace(|| {
        let owned = || Table {
            flags: TableFlags::OWNER.and(TableFlags::PERSIST),
            ..Table::new("mine")
        };
        let mut link = Link::open().unwrap();
        if kernel() < (6, 9) {
            // There is no persistent table yet: the kernel must say so by this very error, on which others rely.
            let mut batch = Batch::new(INET);
            batch.table(&owned());
            assert_eq!(
                refused(link.transact(&mut batch).unwrap_err())[0].errno,
                Errno::EOPNOTSUPP
            );
            assert_eq!(link.tables(INET).unwrap(), []);
            return;
        }
        commit(&mut link, |batch| {
            batch.table(&owned());
            batch.chain(&Chain::filter("mine", "forward", Hook::Forward, priority::FILTER));
        });
        let tables = link.tables(INET).unwrap();
        assert_eq!(tables[0].owner, Some(link.port()));
        assert!(tables[0].flags.has(TableFlags::PERSIST));

        let mut other = Link::open().unwrap();
        let mut batch = Batch::new(INET);
        batch.remove_table("mine");
        let failures = refused(other.transact(&mut batch).unwrap_err());
        assert_eq!(failures[0].errno, Errno::EPERM);

        drop(link);
        // A process that another test has just forked has the socket too, until it becomes the program that it is to be.
        while other.tables(INET).unwrap()[0].owner.is_some() {
            std::thread::yield_now();
        }
        assert_eq!(other.chains(INET, "mine").unwrap().len(), 1);
        commit(&mut other, |batch| batch.table(&owned()));
        assert_eq!(other.tables(INET).unwrap()[0].owner, Some(other.port()));
        let mut third = Link::open().unwrap();
        assert_eq!(
            refused(third.transact(&mut batch).unwrap_err())[0].errno,
            Errno::EPERM
        );
        assert!(nft(&["list", "ruleset"]).contains("chain forward"));
    });
}

fn readable(monitor: &Monitor) -> bool {
    let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

fn read_all(monitor: &mut Monitor) -> Vec<Event> {
    let mut events = Vec::new();
    while monitor.read(&mut events).unwrap() {}
    events
}

#[test]
fn the_monitor_hears_others_and_not_us() {
    in_namespace(|| {
        let (mut ours, mut second) = (Link::open().unwrap(), Link::open().unwrap());
        let mut monitor = Monitor::open(&[second.port(), ours.port()]).unwrap();
        for link in [&mut ours, &mut second] {
            link.transact(&mut layout::batch()).unwrap();
            commit(link, |batch| batch.remove_table("manx"));
        }
        assert!(!readable(&monitor));
        assert_eq!(read_all(&mut monitor), []);

        nft(&[
            "add table inet foreign { chain c { counter; }; set s { type ipv4_addr; elements = { 10.0.0.1 }; }; }",
        ]);
        assert!(readable(&monitor));
        let events = read_all(&mut monitor);
        let our_port = ours.port();
        let new = |event: &Event| match event {
            Event::Change {
                port,
                notice: Notice::New(object),
            } if *port != our_port => Some(object.clone()),
            _ => None,
        };
        let objects: Vec<Object> = events.iter().map(|event| new(event).unwrap()).collect();
        assert!(
            matches!(objects.last(), Some(Object::Generation(generation)) if generation.name.as_deref() == Some("nft"))
        );
        assert!(
            objects
                .iter()
                .any(|object| matches!(object, Object::Rule(rule) if rule.chain == "c"))
        );
        assert!(
            objects
                .iter()
                .any(|object| matches!(object, Object::Elements(elements) if elements.elements.len() == 1))
        );
        assert!(
            objects
                .iter()
                .filter_map(Object::table)
                .all(|table| table == (INET, "foreign"))
        );

        nft(&["delete table inet foreign"]);
        let gone = |event: &Event| matches!(event, Event::Change { notice: Notice::Gone(Object::Table(table)), .. } if table.name == "foreign");
        assert!(read_all(&mut monitor).iter().any(gone));

        monitor.ignore(&[ours.port()]).unwrap();
        commit(&mut ours, |batch| batch.table(&Table::new("ours")));
        assert!(!readable(&monitor));
        commit(&mut second, |batch| batch.table(&Table::new("theirs")));
        assert!(
            read_all(&mut monitor)
                .iter()
                .all(|event| matches!(event, Event::Change { port, .. } if *port == second.port()))
        );

        monitor.pause().unwrap();
        nft(&["add table inet unheard"]);
        assert_eq!(read_all(&mut monitor), []);
        monitor.resume().unwrap();
        nft(&["add table inet heard"]);
        assert!(
            read_all(&mut monitor)
                .iter()
                .any(|event| matches!(new(event), Some(Object::Table(table)) if table.name == "heard"))
        );
    });
}

#[test]
fn a_flood_of_events_is_told_as_an_overflow() {
    in_namespace(|| {
        let mut other = Link::open().unwrap();
        let mut monitor = Monitor::open(&[]).unwrap();
        commit(&mut other, |batch| {
            batch.table(&Table::new("t"));
            batch.set(
                &Set::new("t", "m", Datatype::Ipv4)
                    .to(SetData::value(Datatype::Classid))
                    .sized(300_000),
            );
            batch.elements(&SetRef::exact("t", "m"), classes(0..250_000));
        });
        assert!(read_all(&mut monitor).contains(&Event::Overflow));
        // It goes on hearing.
        nft(&["add table inet heard"]);
        assert!(!read_all(&mut monitor).is_empty());
    });
}

#[test]
fn dumps_show_one_state_while_others_write() {
    in_namespace(|| {
        let mut link = Link::open().unwrap();
        let set = SetRef::exact("t", "m");
        commit(&mut link, |batch| {
            batch.table(&Table::new("t"));
            batch.set(
                &Set::new("t", "m", Datatype::Ipv4)
                    .to(SetData::value(Datatype::Classid))
                    .sized(100_000),
            );
            batch.elements(&set, classes(0..20_000));
        });
        let mut writer = Link::open().unwrap();
        std::thread::scope(|scope| {
            // One commit moves half of the elements; a dump of both halves would show another count.
            let writing = scope.spawn(move || {
                for round in 0..20 {
                    let (from, to) = if round % 2 == 0 { (0, 20_000) } else { (20_000, 0) };
                    commit(&mut writer, |batch| {
                        batch.remove_elements(&set, classes(from..from + 10_000));
                        batch.elements(&set, classes(to..to + 10_000));
                    });
                }
            });
            while !writing.is_finished() {
                match link.elements(INET, "t", "m", Keys::Exact) {
                    Ok(found) => assert_eq!(found.len(), 20_000),
                    Err(error) => {
                        assert!(
                            matches!(error, dataplane_nftables::socket::DumpError::Interrupted { .. }),
                            "{error}"
                        );
                    }
                }
            }
        });
        assert_eq!(link.elements(INET, "t", "m", Keys::Exact).unwrap().len(), 20_000);
    });
}
