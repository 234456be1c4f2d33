-- Values of the stays of the made-up hospital. Grain: one row per value and time at which it became known.
select v.stay_id, v.concept as variable, v.unit, v.observed_at, v.available_at, cast(v.value as text) as value
from {schema}.replay_value v
where v.available_at > :since and v.available_at <= :until
