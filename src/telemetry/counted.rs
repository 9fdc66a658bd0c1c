//! What all shards counted in a stretch of time: since the start, in the last second, in the seconds that a page shows.

use std::collections::BTreeMap;

use super::distribution::{Distribution, Sparse, Values};
use super::interval::{DspTally, Interval, LoopTally, Tally};
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
        for (index, (name, counted)) in interval.roster.dsps().zip(&interval.dsps).enumerate() {
            if let Some(name) = name {
                self.dsp_mut(index, name).merge(counted);
            }
        }
        self.price_mut(interval.roster.currency())
            .merge(&interval.clearing_price);
        let shard = self.shards.entry(interval.shard).or_default();
        shard.total.merge(&interval.tally.stages[Stage::Total as usize]);
        shard.looped.merge(&interval.looped);
    }

    /// Adds another stretch of time.
    pub(super) fn merge<D: Values>(&mut self, other: &Counted<D>) {
        self.tally.merge(&other.tally);
        for (index, (name, counted)) in other.dsps.iter().enumerate() {
            self.dsp_mut(index, name).merge(counted);
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
        for shard in self.shards.values_mut() {
            shard.total.clear();
            shard.looped.clear();
        }
    }

    /// Forgets a DSP as if it had never been, and says where it was.
    pub(super) fn forget_dsp(&mut self, name: &str) -> Option<usize> {
        let index = self.dsps.iter().position(|(known, _)| known == name)?;
        self.dsps.remove(index);
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
            shards: shards.collect(),
        }
    }

    /// The loops of all shards together.
    pub(super) fn loops(&self) -> LoopTally {
        let mut sum = LoopTally::default();
        self.shards.values().for_each(|shard| sum.merge(&shard.looped));
        sum
    }

    /// `index` is where it is unless a reload has changed the list.
    fn dsp_mut(&mut self, index: usize, name: &str) -> &mut DspTally {
        let here = |(known, _): &(String, DspTally)| known == name;
        let index = if self.dsps.get(index).is_some_and(here) {
            index
        } else {
            self.dsps.iter().position(here).unwrap_or_else(|| {
                self.dsps.push((name.to_owned(), DspTally::default()));
                self.dsps.len() - 1
            })
        };
        &mut self.dsps[index].1
    }

    fn price_mut(&mut self, currency: &str) -> &mut Distribution {
        self.clearing_prices
            .entry(currency.to_owned())
            .or_insert_with(Distribution::of_price)
    }
}
