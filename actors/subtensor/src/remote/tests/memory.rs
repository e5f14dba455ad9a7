//! What many syncs of a large subnet leave behind: nothing. Client and double are one process, so both are measured.

use std::time::Duration;

use serde_json::{Value, json};

use super::{chain, reading};
use crate::Chain;

/// The largest subnets.
const NEURONS: usize = 1_024;
/// Until every buffer and pool has its size.
const WARM_UP: usize = 200;
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

#[tokio::test]
#[ignore = "takes minutes, and measures the whole process: run it alone, with SYNCS=10000 for as many"]
async fn memory_is_flat_over_many_syncs() {
    let syncs: usize = std::env::var("SYNCS").ok().and_then(|syncs| syncs.parse().ok()).unwrap_or(1_000);
    let node = reading::new_node(Duration::ZERO).await;
    node.world.lock().answers.insert("get_selective_metagraph", large(&reading::columns()));
    let chain = chain(&[&node]);
    let mut before = 0;
    for sync in 0..WARM_UP + syncs {
        assert_eq!(chain.metagraph().await.unwrap().neurons.len(), NEURONS);
        let mut world = node.world.lock();
        world.asked.clear();
        world.make_block();
        if sync == WARM_UP {
            before = resident_kib();
        }
    }
    // The double keeps its blocks.
    let blocks = (syncs * std::mem::size_of::<super::node::Block>()) as u64 / 1_024;
    let after = resident_kib();
    println!(
        "{syncs} syncs of {NEURONS} neurons: {before} KiB before, {after} KiB after, of it {blocks} KiB of blocks"
    );
    assert!(after < before + blocks + MOST_GROWTH_KIB);
}
