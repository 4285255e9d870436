import time,sys
t=time.time()
import flwr.supernode.runtime.run_clientapp, fedpeft_app.client_app
import resource
rss=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
print('base',rss(), round(time.time()-t,2)); t=time.time()
import ray
print('ray',rss(), round(time.time()-t,2)); t=time.time()
ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR', namespace='fedpeft', configure_logging=False)
print('init',rss(), round(time.time()-t,2)); t=time.time()
@ray.remote
class A:
    def f(self,x): return len(x)
a=A.options(name='t',lifetime='detached',get_if_exists=True,num_cpus=0).remote()
print(ray.get(a.f.remote(b'x'*700000)),'call',rss(), round(time.time()-t,2)); t=time.time()
print(ray.get(a.f.remote(b'x'*700000)),'call',rss(), round(time.time()-t,2))
