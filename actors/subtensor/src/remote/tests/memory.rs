//! What a sync of a large subnet costs, with the comparison with the one before, and what many of them leave behind: nothing.
//! Client and double are one process, so the memory of both is measured; the double has threads of its own, so the processor time is
//! the client's.

use std::time::Duration;

use openvalidators_messages::Metagraph;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{chain, reading};
use crate::Chain;

/// The largest subnets.
const NEURONS: usize = 1_024;
/// Until every buffer and pool has its size.
const WARM_UP: usize = 200;
/// Processor time of one sync.
const MOST_CPU_MS: f64 = 150.0;
/// How much more the process may hold in the end.
const MOST_GROWTH_KIB: u64 = 2_048;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// As many neurons as the real ones have, in every column.
fn large(columns: &Value) -> Value {
    let mut columns = columns.clone();
    for (name, column) in columns.as_object_mut().unwrap() {
        let Some(column) = column.as_array_mut().filter(|column| !column.is_empty()) else { continue };
        let first = column[1].clone();
        column.resize(NEURONS, first);
        if name == "hotkeys" {
            *column = (0..NEURONS).map(|place| json!(format!("0x{place:064x}"))).collect();
        }
    }
    columns
}

/// Time of this thread on a core, by the kernel's scheduler.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "takes minutes, and measures the whole process: run it alone, with SYNCS=10000 for as many"]
fn memory_is_flat_over_many_syncs() {
    let syncs: usize = std::env::var("SYNCS").ok().and_then(|syncs| syncs.parse().ok()).unwrap_or(1_000);
    let theirs = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = theirs.block_on(reading::new_node(Duration::ZERO));
    node.world.lock().answers.insert("get_selective_metagraph", large(&reading::columns()));
    let chain = chain(&[&node]);
    let ours = Builder::new_current_thread().enable_all().build().unwrap();
    let (mut before, mut spent) = (0, Duration::ZERO);
    let mut last: Option<Metagraph> = None;
    for sync in 0..WARM_UP + syncs {
        if sync == WARM_UP {
            (before, spent) = (resident_kib(), Duration::ZERO);
        }
        let begin = cpu();
        let metagraph = ours.block_on(chain.metagraph()).unwrap();
        let both = last.iter().flat_map(|last| last.neurons.iter().zip(&metagraph.neurons));
        let replaced = both.filter(|(was, is)| was.hotkey != is.hotkey).count();
        spent += cpu() - begin;
        assert_eq!((metagraph.neurons.len(), replaced), (NEURONS, last.iter().len()));
        last = Some(metagraph);
        let mut world = node.world.lock();
        // A newcomer in every block.
        let columns = world.answers.get_mut("get_selective_metagraph").unwrap();
        columns["hotkeys"][sync % NEURONS] = json!(format!("0x{:064x}", NEURONS + sync));
        world.asked.clear();
        world.make_block();
    }
    // The double keeps its blocks.
    let blocks = (syncs * std::mem::size_of::<super::node::Block>()) as u64 / 1_024;
    let after = resident_kib();
    let each = spent.as_secs_f64() * 1e3 / syncs as f64;
    println!(
        "{syncs} syncs of {NEURONS} neurons, one replaced in each: {before} KiB before, {after} KiB after, of it \
         {blocks} KiB of blocks; {each:.1} ms of processor time each"
    );
    assert!(each < MOST_CPU_MS, "{each:.1} ms");
    assert!(after < before + blocks + MOST_GROWTH_KIB);
}
