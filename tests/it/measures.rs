//! The measuring scripts that have no better place, each for a moment: that they run to their end and print their table. What they
//! measure on a build for tests beside other tests says nothing.

use crate::scripts::{folder, run, said};

#[test]
fn shards_and_processes_in_short() {
    let options = ["--rate", "20", "--turns", "1", "--duration", "1"];
    if let Some(shards) = run(
        "shards.sh",
        &["jq", "curl", "taskset"],
        &options,
        &folder("shards"),
    ) {
        let said = said(&shards);
        // 1 is a verdict too.
        assert!(
            matches!(shards.status.code(), Some(0 | 1)) && said.contains("Shards of one process take"),
            "{said}"
        );
    }
}

#[test]
fn scrapes_in_short() {
    let options = ["--shards", "2", "--rate", "20", "--turns", "1", "--duration", "1"];
    if let Some(scrape) = run("scrape.sh", &["jq", "curl"], &options, &folder("scrape")) {
        let said = said(&scrape);
        assert!(
            scrape.status.success() && said.contains("A scrape took"),
            "{said}"
        );
    }
}
