//! A machine that is cut again and again, with cells that all change in between.
//!
//! Owns: the catalog and the cells of the benches of cuts. Leaves to others: what is measured.

use billing::catalog::CatalogFile;
use domain::plan::CellClass;
use domain::{EventPosition, Subject, Timestamp};
use engine::shard::cell::{CellReport, Group};
use engine::shard::kept::CellValue;
use engine::shard::sequence::Item;
use machine::Machine;
use wire::control::{ClockKind, ControlRecord, Genesis};

/// Accounts with one subscription and one subject each, and groups of the one meter: a cell and a line for each group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) accounts: usize,
    pub(crate) groups: usize,
}

impl Shape {
    /// Cells, and lines of a cut.
    pub(crate) fn cells(self) -> usize {
        self.accounts * self.groups
    }
}

fn catalog_text(accounts: usize) -> String {
    let mut text = String::from(
        r#"
        catalog = 1
        entity = [{ id = "inc", currency = "USD", time_zone = "UTC" }]
        meter = [{ id = "calls", event_type = "call", aggregation = "sum", value = "n", group_by = ["model"] }]
        plan = [{ id = "pro", currency = "USD" }]
        [[price]]
        id = "tiers"
        plan = "pro"
        meter = "calls"
        model = "graduated"
        window = "month"
        tiers = [
            { up_to = "100", unit_amount = "0.05" }, { up_to = "1000", unit_amount = "0.04" },
            { up_to = "10000", unit_amount = "0.03" }, { up_to = "100000", unit_amount = "0.02" }, { unit_amount = "0.01" },
        ]
        "#,
    );
    for n in 0..accounts {
        text.push_str(&format!(
            r#"
            [[account]]
            id = "a{n}"
            name = "A"
            entity = "inc"
            currency = "USD"
            time_zone = "UTC"
            [[subscription]]
            id = "s{n}"
            account = "a{n}"
            plan = "pro"
            from = "2026-01-01T00:00:00Z"
            [[subject]]
            id = "k{n}"
            subscription = "s{n}"
            from = "2026-01-01T00:00:00Z"
            "#
        ));
    }
    text
}

/// The machine, and what it was fed.
pub(crate) struct Cutter {
    machine: Machine,
    shape: Shape,
    offset: u64,
    quantity: i128,
}

impl Cutter {
    /// Before the first cut.
    pub(crate) fn new(shape: Shape) -> Self {
        let resources =
            CatalogFile::parse(&catalog_text(shape.accounts)).expect("a valid catalog").resources();
        let mut cutter = Self { machine: Machine::new(1), shape, offset: 0, quantity: 0 };
        cutter.apply(ControlRecord::Genesis(Genesis {
            tenant: 0,
            incarnation: 0,
            identity_key: "0".repeat(32),
            clock: ClockKind::Scenario,
            epoch: machine::RATING_EPOCH.to_string(),
            made_by: "a bench".to_string(),
        }));
        for resource in &resources {
            let (kind, id) = (resource.kind().as_str(), resource.id());
            let put =
                cutter.machine.propose_put(kind, id, resource.to_json(), "bench").expect("a valid resource");
            cutter.apply(put.expect("a new resource"));
        }
        cutter.machine.new_barrier(cutter.offset, true);
        cutter
    }

    fn apply(&mut self, record: ControlRecord) {
        self.offset += 1;
        self.machine.apply(self.offset, &record).expect("a record that follows");
    }

    /// Every cell changes; the next cut is open.
    pub(crate) fn open(&mut self) {
        self.quantity += 1_000_003;
        let from = Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant");
        let Shape { accounts, groups } = self.shape;
        let models: Vec<Group> = (0..groups)
            .map(|n| Group::from([(groups > 1).then(|| format!("model-{n:04}").into())]))
            .collect();
        let mut reports = Vec::with_capacity(self.shape.cells());
        for account in 0..accounts {
            let subject = Subject::new(&format!("k{account}")).expect("a subject");
            for (n, group) in models.iter().enumerate() {
                let number = account * groups + n;
                let mut value = CellValue::default();
                let item = Item {
                    time: from,
                    position: EventPosition::new(0, 0),
                    value: self.quantity * 10i128.pow(16) + number as i128,
                };
                value.add(CellClass::Additive, number as u128 + self.quantity as u128, item);
                let (subject, group) = (subject.clone(), group.clone());
                reports.push(CellReport { subject, program: 0, group, slice_from: from, value });
            }
        }
        self.machine.handle_reports(0, reports);
        let at = from.plus(20 * domain::time::DAY);
        let cut = self.machine.propose_cut(self.offset + 1, at, "bench");
        self.apply(cut);
    }

    /// Rates and seals the open cut; the lines of its batch.
    pub(crate) fn rate(&mut self) -> usize {
        let rated =
            self.machine.rate_open_cut().expect("nothing was spilled").expect("every account changed");
        let lines = rated.batch.lines.len();
        self.apply(ControlRecord::Seal(rated.seal));
        self.machine.close_cut();
        lines
    }
}
