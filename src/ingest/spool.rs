//! What is known of many deals, aside in a temporary file until each deal comes: memory holds one place
//! a deal, not what is there.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::DealId;
use crate::error::Result;

/// The place of the record before, and the length of this one.
const HEADER_BYTES: usize = 16;

/// Records of deals, in the order in which they came.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<File>,
    written: u64,
    chains: HashMap<u64, Chain>,
    hasher: RandomState,
}

/// The records of one deal, or, once in a blue moon, of two: each leads to the one before.
#[derive(Debug)]
struct Chain {
    last: u64,
    len: usize,
    is_read: bool,
}

/// Where a chain begins.
const NOTHING: u64 = u64::MAX;

impl Spool {
    /// # Errors
    /// When there is no place for temporary files.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().context("cannot make a temporary file")?;
        Ok(Self {
            file: BufWriter::new(file),
            written: 0,
            chains: HashMap::new(),
            hasher: RandomState::new(),
        })
    }

    /// How many records a deal has.
    pub fn len_of(&self, id: &DealId) -> usize {
        let chain = self.chains.get(&self.hasher.hash_one(id));
        chain.map_or(0, |chain| chain.len)
    }

    pub fn push(&mut self, id: &DealId, record: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(&(id.as_str(), record)).context("a record is JSON")?;
        let chain = self
            .chains
            .entry(self.hasher.hash_one(id))
            .or_insert(Chain {
                last: NOTHING,
                len: 0,
                is_read: false,
            });
        let written = self
            .file
            .write_all(&chain.last.to_le_bytes())
            .and_then(|()| self.file.write_all(&(json.len() as u64).to_le_bytes()))
            .and_then(|()| self.file.write_all(&json));
        written.context("cannot write to a temporary file")?;
        chain.last = self.written;
        chain.len += 1;
        self.written += (HEADER_BYTES + json.len()) as u64;
        Ok(())
    }

    /// The records of a deal, in the order in which they came.
    pub fn read<T: DeserializeOwned>(&mut self, id: &DealId) -> Result<Vec<T>> {
        let Some(chain) = self.chains.get_mut(&self.hasher.hash_one(id)) else {
            return Ok(Vec::new());
        };
        chain.is_read = true;
        self.file
            .flush()
            .context("cannot write to a temporary file")?;
        let mut records = Vec::with_capacity(chain.len);
        let mut place = chain.last;
        while place != NOTHING {
            let (before, json) =
                read_at(self.file.get_ref(), place).context("cannot read a temporary file")?;
            let (of, record): (String, T) =
                serde_json::from_slice(&json).context("a record is JSON")?;
            if of == id.as_str() {
                records.push(record);
            }
            place = before;
        }
        records.reverse();
        Ok(records)
    }

    /// Deals that have records which nobody read.
    pub fn unread(&self) -> usize {
        self.chains.values().filter(|chain| !chain.is_read).count()
    }
}

fn read_at(file: &File, place: u64) -> std::io::Result<(u64, Vec<u8>)> {
    let number = |place| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, place)?;
        std::io::Result::Ok(u64::from_le_bytes(bytes))
    };
    let (before, len) = (number(place)?, number(place + 8)?);
    let mut json = vec![0; len as usize];
    file.read_exact_at(&mut json, place + HEADER_BYTES as u64)?;
    Ok((before, json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deal_gets_its_records_in_their_order() {
        let mut spool = Spool::new().unwrap();
        let id = |i: usize| DealId::new(&format!("d{i}")).unwrap();
        for record in 0..3000 {
            spool.push(&id(record % 7), &record).unwrap();
        }
        for i in (0..7).rev() {
            let records: Vec<usize> = spool.read(&id(i)).unwrap();
            assert_eq!(records, (i..3000).step_by(7).collect::<Vec<_>>());
            assert_eq!(spool.len_of(&id(i)), records.len());
            assert_eq!(spool.unread(), i);
        }
        assert!(spool.read::<usize>(&id(7)).unwrap().is_empty());
    }
}
