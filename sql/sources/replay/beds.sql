-- Beds of the made-up hospital. Grain: one row per version; the loader writes one per unit, which holds since ever.
select u.unit, u.beds, u.staffed_beds, u.available_at
from {schema}.replay_unit u
where u.available_at > :since and u.available_at <= :until
