//! What all shards counted in a stretch of time: since the start, in the last second, in the seconds that a page shows.

use std::collections::BTreeMap;

use super::distribution::{Distribution, Sparse, Values};
use super::interval::{DspTally, Interval, LateRevenue, LoopTally, Tally};
use super::labels::Stage;

/// Sums over shards. DSPs are kept by name, not by index: a reload may bring another list, and a counter must not
/// change its meaning.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted<D = Distribution> {
    pub(super) tally: Tally<D>,
    /// In the order of the configuration that named them first.
    pub(super) dsps: Vec<(String, DspTally<D>)>,
    /// By currency.
    pub(super) clearing_prices: BTreeMap<String, D>,
    /// By currency, and then in the order of `dsps`; a list may be shorter than that one.
    pub(super) late_revenue: BTreeMap<String, Vec<LateRevenue>>,
    /// By shard.
    pub(super) shards: BTreeMap<usize, ShardTally<D>>,
}

/// What is told apart by shard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ShardTally<D = Distribution> {
    /// The stage of this name, of its bid requests.
    pub(super) total: D,
    pub(super) looped: LoopTally<D>,
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            tally: Tally::default(),
            dsps: Vec::new(),
            clearing_prices: BTreeMap::new(),
            late_revenue: BTreeMap::new(),
            shards: BTreeMap::new(),
        }
    }
}

impl Default for ShardTally {
    fn default() -> Self {
        Self {
            total: Distribution::of_stage(),
            looped: LoopTally::default(),
        }
    }
}

impl Counted {
    /// Adds what one shard handed over.
    pub(super) fn add(&mut self, interval: &Interval) {
        self.tally.merge(&interval.tally);
        let currency = interval.roster.currency();
        let dsps = interval.roster.dsps().zip(&interval.dsps);
        for (index, ((name, counted), revenue)) in dsps.zip(&interval.late_revenue).enumerate() {
            let Some(name) = name else { continue };
            let dsp = self.place_of(index, name);
            self.dsps[dsp].1.merge(counted);
            self.late_revenue_mut(currency, dsp).merge(revenue);
        }
        self.price_mut(currency).merge(&interval.clearing_price);
        let shard = self.shards.entry(interval.shard).or_default();
        shard.total.merge(&interval.tally.stages[Stage::Total as usize]);
        shard.looped.merge(&interval.looped);
    }

    /// Adds another stretch of time.
    pub(super) fn merge<D: Values>(&mut self, other: &Counted<D>) {
        self.tally.merge(&other.tally);
        for (index, (name, counted)) in other.dsps.iter().enumerate() {
            let dsp = self.place_of(index, name);
            self.dsps[dsp].1.merge(counted);
            for (currency, revenues) in &other.late_revenue {
                if let Some(revenue) = revenues.get(index) {
                    self.late_revenue_mut(currency, dsp).merge(revenue);
                }
            }
        }
        for (currency, prices) in &other.clearing_prices {
            self.price_mut(currency).merge(prices);
        }
        for (&shard, counted) in &other.shards {
            let mine = self.shards.entry(shard).or_default();
            mine.total.merge(&counted.total);
            mine.looped.merge(&counted.looped);
        }
    }

    /// Forgets all counts; keeps the names, their order and the memory.
    pub(super) fn clear(&mut self) {
        self.tally.clear();
        self.dsps.iter_mut().for_each(|(_, tally)| tally.clear());
        self.clearing_prices.values_mut().for_each(Distribution::clear);
        self.late_revenue
            .values_mut()
            .for_each(|revenues| revenues.fill(LateRevenue::default()));
        for shard in self.shards.values_mut() {
            shard.total.clear();
            shard.looped.clear();
        }
    }

    /// Forgets a DSP as if it had never been, and says where it was.
    pub(super) fn forget_dsp(&mut self, name: &str) -> Option<usize> {
        let index = self.dsps.iter().position(|(known, _)| known == name)?;
        self.dsps.remove(index);
        for revenues in self.late_revenue.values_mut() {
            if index < revenues.len() {
                revenues.remove(index);
            }
        }
        Some(index)
    }

    pub(super) fn sparse(&self) -> Counted<Sparse> {
        let dsps = self
            .dsps
            .iter()
            .map(|(name, tally)| (name.clone(), tally.sparse()));
        let prices = self.clearing_prices.iter();
        let shards = self.shards.iter().map(|(&shard, counted)| {
            let sparse = ShardTally {
                total: counted.total.sparse(),
                looped: counted.looped.sparse(),
            };
            (shard, sparse)
        });
        Counted {
            tally: self.tally.sparse(),
            dsps: dsps.collect(),
            clearing_prices: prices
                .map(|(currency, prices)| (currency.clone(), prices.sparse()))
                .collect(),
            late_revenue: self.late_revenue.clone(),
            shards: shards.collect(),
        }
    }

    /// The loops of all shards together.
    pub(super) fn loops(&self) -> LoopTally {
        let mut sum = LoopTally::default();
        self.shards.values().for_each(|shard| sum.merge(&shard.looped));
        sum
    }

    /// What late answers of a DSP would have brought, by currency.
    pub(super) fn late_revenue_of(&self, name: &str) -> impl Iterator<Item = (&str, &LateRevenue)> {
        let dsp = self.dsps.iter().position(|(known, _)| known == name);
        self.late_revenue
            .iter()
            .filter_map(move |(currency, revenues)| Some((currency.as_str(), revenues.get(dsp?)?)))
    }

    /// The place in `dsps`. `index` is where it is unless a reload has changed the list.
    fn place_of(&mut self, index: usize, name: &str) -> usize {
        let here = |(known, _): &(String, DspTally)| known == name;
        if self.dsps.get(index).is_some_and(here) {
            return index;
        }
        self.dsps.iter().position(here).unwrap_or_else(|| {
            self.dsps.push((name.to_owned(), DspTally::default()));
            self.dsps.len() - 1
        })
    }

    fn late_revenue_mut(&mut self, currency: &str, dsp: usize) -> &mut LateRevenue {
        let revenues = self.late_revenue.entry(currency.to_owned()).or_default();
        if revenues.len() <= dsp {
            revenues.resize(dsp + 1, LateRevenue::default());
        }
        &mut revenues[dsp]
    }

    fn price_mut(&mut self, currency: &str) -> &mut Distribution {
        self.clearing_prices
            .entry(currency.to_owned())
            .or_insert_with(Distribution::of_price)
    }
}
